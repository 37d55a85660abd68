"""One instance of a service: the channel to it, and how it fares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from moltbot_mesh.channel import CHANNEL_OPTIONS
from moltbot_mesh.errors_wire import STATUS_DETAILS
from moltbot_mesh.reconnect import is_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from moltbot_mesh.outlier import InstanceHealth
    from moltbot_mesh.registry import Instance

log = structlog.get_logger("moltbot.balancer")

CONNECT_TIMEOUT_S = 2.0
"""How long an instance may take to accept a connection before another is tried, in seconds."""
_HEALTH_TIMEOUT_S = 2.0

_OPTIONS: tuple[tuple[str, int], ...] = (
    # With retries on and no policy, gRPC sends again only what a server that goes away says it has not seen.
    *(option for option in CHANNEL_OPTIONS if option[0] != "grpc.enable_retries"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_TIMEOUT_S * 1000)),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


def open_peer_channel(target: str) -> grpc.aio.Channel:
    """Open a channel to one instance."""
    return grpc.aio.insecure_channel(target, options=_OPTIONS)


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A method of the service, and how its messages are coded. Compared by identity."""

    kind: str
    """Name of the channel's function for it, such as `unary_stream`."""
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Peer:
    """One instance and the channel to it, which begins to connect at once.

    Args:
        instance: Which.
        channel: Owned by this object's owner.
        health: When it is left out.
    """

    def __init__(self, instance: Instance, channel: grpc.aio.Channel, health: InstanceHealth) -> None:
        self.instance = instance
        self.channel = channel
        self.outstanding = 0
        self._health = health
        self._callables: dict[Method, Callable[..., Any]] = {}
        channel.get_state(try_to_connect=True)

    @property
    def is_connected(self) -> bool:
        """Whether a call would leave at once; if not, this has it connect."""
        return self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    @property
    def is_ejected(self) -> bool:
        """Whether it is left out now."""
        return self._health.is_ejected

    @property
    def is_failing(self) -> bool:
        """Whether it was left out, now or before, and has not answered since."""
        return self._health.is_failing

    async def connect(self, timeout_s: float) -> bool:
        """Whether a connection stands, or is made in time."""
        if await is_ready(self.channel, min(timeout_s, CONNECT_TIMEOUT_S)):
            return True
        refused = self.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        if refused or timeout_s >= CONNECT_TIMEOUT_S:  # a caller in a hurry proves nothing
            self._failed("connection refused" if refused else "connection timed out")
        return False

    def call(self, method: Method, request: Any, timeout_s: float | None, kwargs: dict[str, Any]) -> Any:
        """Start a call here."""
        start = self._callables.get(method)
        if start is None:
            start = getattr(self.channel, method.kind)(method.name, *method.args, **method.kwargs)
            self._callables[method] = start
        call = start(request, timeout=timeout_s, **kwargs)
        self.outstanding += 1
        call.add_done_callback(self._finished)
        return call

    def _finished(self, call: grpc.aio.Call) -> None:
        self.outstanding -= 1
        code = _settled(call.code())
        if code is grpc.StatusCode.UNAVAILABLE:
            # With details of ours it is the service that is not ready, which every instance may say at once.
            if all(key != STATUS_DETAILS for key, _ in _settled(call.trailing_metadata()) or ()):
                self._failed("call failed")
        elif code not in _SAYS_NOTHING:
            self._health.succeeded()

    async def check_health(self) -> None:
        """Ask for its health; a server without that service is fine if it answers."""
        check = cast("Any", health_pb2_grpc.HealthStub(self.channel)).Check
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                self._failed(f"health check: {error.code().name}")
                return
        except grpc.aio.UsageError:  # closed in between: it has left
            return
        else:
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                if self._health.eject():
                    self._log_ejected("it says it does not serve")
                return
        self._health.recovered()

    def _failed(self, why: str) -> None:
        if self._health.failed():
            self._log_ejected(why)

    def _log_ejected(self, why: str) -> None:
        log.warning("instance ejected", service=self.instance.service, target=self.instance.target, why=why)


_SAYS_NOTHING = frozenset({None, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED})


def _settled(status: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for: the status of a call that has ended.

    grpc.aio tells a call's status by coroutines alone; in a done callback they return without suspending.

    Returns:
        `None` if it would wait after all.
    """
    try:
        status.send(None)
    except StopIteration as stop:
        return stop.value
    status.close()
    return None

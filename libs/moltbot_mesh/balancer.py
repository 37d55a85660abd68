"""A channel to a service, whichever of its instances serve it: each call goes to one of them.

Instances come from the registry. A call leaves only by a connection that stands: an instance that refuses to be
connected is passed over, and since nothing was sent there, the call goes to another one. A call that was sent is never
sent again, for it may have been done (gRPC itself sends again what a closing server says it has not seen).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from moltbot_mesh.errors import MoltbotError
from moltbot_mesh.outlier import InstanceHealth, OutlierPolicy, choose
from moltbot_mesh.peer import Method, Peer, open_peer_channel
from moltbot_mesh.pending_call import PendingCall
from moltbot_mesh.reconnect import backoff_s

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Self

    from moltbot_mesh.registry import Instance, Registry

log = structlog.get_logger("moltbot.balancer")

WAIT_S = 10.0
"""How long a call without a deadline waits for an instance, in seconds."""
HEALTH_INTERVAL_S = 5.0
"""How often each instance is asked for its health, in seconds."""


class BalancedChannel(grpc.aio.Channel):
    """A `grpc.aio.Channel` over all instances of a service. Made within a running event loop; `close` ends it.

    A call waits for a first instance until its deadline, or `WAIT_S` if it has none; then it fails with UNAVAILABLE.

    Args:
        registry: Where the instances are found.
        service: Their service's name.
        policy: When an instance is left out.
        open_channel: Opens a channel to one target.
        health_interval_s: How often instances are asked for their health (grpc.health.v1), in seconds.
    """

    def __init__(
        self,
        registry: Registry,
        service: str,
        *,
        policy: OutlierPolicy | None = None,
        open_channel: Callable[[str], grpc.aio.Channel] = open_peer_channel,
        health_interval_s: float = HEALTH_INTERVAL_S,
    ) -> None:
        self._registry = registry
        self._service = service
        self._policy = policy or OutlierPolicy()
        self._open_channel = open_channel
        self._health_interval_s = health_interval_s
        self._random = random.Random()  # noqa: S311 - spreads load
        self._peers: dict[tuple[str, str], Peer] = {}
        self._leaving: list[Peer] = []
        self._methods: dict[tuple[Any, ...], Method] = {}
        self._changed = asyncio.Event()
        self._trouble = ""
        self._closed = False
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._follow(), name=f"balancer-{service}"),
            loop.create_task(self._check_health(), name=f"balancer-health-{service}"),
        ]

    def instances(self) -> frozenset[Instance]:
        """Those that are known."""
        return frozenset(peer.instance for peer in self._peers.values())

    def ejected(self) -> frozenset[Instance]:
        """Those that are left out now."""
        return frozenset(peer.instance for peer in self._peers.values() if peer.is_ejected)

    def failing(self) -> frozenset[Instance]:
        """Those that were left out, now or before, and have not answered since."""
        return frozenset(peer.instance for peer in self._peers.values() if peer.is_failing)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.unary_unary`."""
        return self._callable("unary_unary", method, args, kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.unary_stream`."""
        return self._callable("unary_stream", method, args, kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.stream_unary`."""
        return self._callable("stream_unary", method, args, kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.stream_stream`."""
        return self._callable("stream_stream", method, args, kwargs)

    def _callable(self, kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = (kind, name, args, *sorted(kwargs.items()))
        return partial(self._call, self._methods.setdefault(key, Method(kind, name, args, kwargs)))

    def _call(
        self, method: Method, request: Any = None, timeout: float | None = None, metadata: Any = None, **kwargs: Any
    ) -> Any:
        """Start a call: at once where an instance is connected, else as soon as one is."""
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        kwargs["metadata"] = metadata
        peer = choose(tuple(self._peers.values()), self._random)
        if peer is not None and peer.is_connected:
            return peer.call(method, request, timeout, kwargs)
        return PendingCall(self._begin(method, request, timeout, kwargs), timeout)

    async def _begin(self, method: Method, request: Any, timeout_s: float | None, kwargs: dict[str, Any]) -> Any:
        began_s = time.monotonic()
        wait_s = WAIT_S if timeout_s is None else timeout_s
        peer = await self._connected_peer(wait_s, wait_for_ready=bool(kwargs.get("wait_for_ready")))
        left_s = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - began_s))
        return peer.call(method, request, left_s, kwargs)

    async def _connected_peer(self, timeout_s: float, *, wait_for_ready: bool) -> Peer:
        """An instance to which a connection stands.

        Raises:
            grpc.aio.AioRpcError: UNAVAILABLE: there is none in time, or all refuse.
        """
        until_s = time.monotonic() + timeout_s
        tried: set[Peer] = set()
        rounds = 0
        while True:
            left_s = until_s - time.monotonic()
            peer = choose([peer for peer in self._peers.values() if peer not in tried], self._random)
            if self._closed or left_s <= 0:
                raise self._unavailable(timeout_s)
            if peer is not None:
                if await peer.connect(left_s):
                    return peer
                tried.add(peer)
            elif not self._peers:
                await self._wait_for_change(left_s)
            elif wait_for_ready:
                await asyncio.sleep(min(left_s, backoff_s(rounds, at_most_s=1.0)))
                rounds += 1
                tried.clear()
            else:
                raise self._unavailable(timeout_s)

    async def _wait_for_change(self, timeout_s: float) -> None:
        """Until instances come or go, or the channel is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def _tell_change(self) -> None:
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    def _unavailable(self, waited_s: float) -> grpc.aio.AioRpcError:
        if self._closed:
            what = f"the channel to {self._service} is closed"
        elif self._peers:
            targets = ", ".join(sorted(peer.instance.target for peer in self._peers.values())[:8])
            what = f"no instance of {self._service} accepts a connection; tried {targets}"
        else:
            what = f"no instance of {self._service} was found within {waited_s:.3g} s; is it running, and registered?"
        trouble = f" ({self._trouble})" if self._trouble else ""
        empty = grpc.aio.Metadata()
        return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, empty, empty, what + trouble)

    async def _follow(self) -> None:
        """Keep the instances as the registry has them; where it fails, keep those that are known and ask again."""
        failures = 0
        while True:
            try:
                async with contextlib.aclosing(self._registry.watch(self._service)) as changes:
                    async for instances in changes:
                        failures, self._trouble = 0, ""
                        await self._take(instances)
            except MoltbotError as error:
                self._trouble = f"registry: {error.message}"
                log.warning("registry cannot be followed", service=self._service, error=error.message)
            except Exception:  # a defect must not end discovery in silence
                self._trouble = "registry: it failed; the log has the rest"
                log.exception("registry cannot be followed", service=self._service)
            await asyncio.sleep(backoff_s(failures, base_s=0.2))
            failures += 1

    async def _take(self, instances: frozenset[Instance]) -> None:
        wanted = {(instance.id, instance.target): instance for instance in instances}
        for key in self._peers.keys() - wanted.keys():
            self._leaving.append(self._peers.pop(key))
        for key, instance in wanted.items():
            if key not in self._peers:
                health = InstanceHealth(self._policy)
                self._peers[key] = Peer(instance, self._open_channel(instance.target), health)
        self._tell_change()
        await self._close_idle()

    async def _close_idle(self) -> None:
        """Close what has left, once its last call has ended."""
        idle = [peer for peer in self._leaving if not peer.outstanding]
        self._leaving = [peer for peer in self._leaving if peer.outstanding]
        for peer in idle:
            await peer.channel.close()

    async def _check_health(self) -> None:
        while True:
            await asyncio.sleep(self._health_interval_s * self._random.uniform(0.8, 1.2))
            await self._close_idle()
            checks = [peer.check_health() for peer in self._peers.values()]
            for error in await asyncio.gather(*checks, return_exceptions=True):
                if isinstance(error, Exception):  # nor health checks
                    log.error("health check failed", service=self._service, exc_info=error)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """READY if an instance is connected; CONNECTING if not, whether or not there are instances."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        return _together({peer.channel.get_state(try_to_connect) for peer in self._peers.values()})

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See `grpc.aio.Channel.wait_for_state_change`."""
        while not self._closed:
            # A state changes at any time, on other threads: each is waited for from what was judged here.
            seen = [(peer.channel, peer.channel.get_state()) for peer in self._peers.values()]
            if _together({state for _, state in seen}) is not last_observed_state:
                return
            waits: list[Coroutine[Any, Any, Any]] = [self._changed.wait()]
            waits += [channel.wait_for_state_change(state) for channel, state in seen]
            tasks = [asyncio.ensure_future(wait) for wait in waits]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def channel_ready(self) -> None:
        """See `grpc.aio.Channel.channel_ready`."""
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.SHUTDOWN:
                raise grpc.aio.UsageError("Channel is closed.")
            await self.wait_for_state_change(state)

    async def close(self, grace: float | None = None) -> None:
        """See `grpc.aio.Channel.close`."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tell_change()
        peers = [*self._peers.values(), *self._leaving]
        await asyncio.gather(*(peer.channel.close(grace) for peer in peers))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()


def _together(states: set[grpc.ChannelConnectivity]) -> grpc.ChannelConnectivity:
    for state in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.CONNECTING):
        if state in states:
            return state
    return next(iter(states)) if len(states) == 1 else grpc.ChannelConnectivity.CONNECTING

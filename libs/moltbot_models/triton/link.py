"""The connection to one Triton, made anew when the certificates were renewed; calls under way keep the old one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_models.tls import Certificates, TlsFiles

_MAX_MESSAGE_BYTES = 64 << 20
_OPTIONS = [
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # A server that was restarted is found again within a second, and a busy one has as long to greet: the least backoff
    # is also what gRPC gives a connection to come about. One that is refused at once is tried again after the first.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy that the environment names would see what is asked.
    ("grpc.enable_http_proxy", 0),
]
_REMOTE_OPTIONS = [
    # A handshake over a network takes its time. A machine that vanished without a word is noticed by a ping, of which
    # Triton takes one in five minutes and no more.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


class _Link:
    __slots__ = ("calls", "certificates", "channel", "stub")

    def __init__(self, channel: grpc.aio.Channel, certificates: Certificates | None) -> None:
        self.channel, self.certificates = channel, certificates
        self.stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self.calls = 0


class Links:
    """Opens and closes the connections.

    Args:
        target: A gRPC target: `unix:/path` or `host:port`.
        files: Certificates; `None` speaks plain text.
    """

    def __init__(self, target: str, files: TlsFiles | None = None) -> None:
        self._target, self._files = target, files
        self._link = self._open()

    def _open(self) -> _Link:
        if self._files is None:
            return _Link(grpc.aio.insecure_channel(self._target, options=_OPTIONS), None)
        found = self._files.current()
        options: list[tuple[str, Any]] = [*dict(_OPTIONS + _REMOTE_OPTIONS).items()]
        if self._files.server_name:
            options.append(("grpc.ssl_target_name_override", self._files.server_name))
        credentials = grpc.ssl_channel_credentials(found.ca, found.key, found.cert)
        return _Link(grpc.aio.secure_channel(self._target, credentials, options=options), found)

    @contextlib.asynccontextmanager
    async def stub(self) -> AsyncGenerator[Any]:
        """The stub for one call."""
        link = self._link
        if self._files is not None and self._files.current() is not link.certificates:
            self._link = self._open()
            if not link.calls:
                await link.channel.close()
            link = self._link
        link.calls += 1
        try:
            yield link.stub
        finally:
            link.calls -= 1
            if link is not self._link and not link.calls:
                await link.channel.close()

    async def aclose(self) -> None:
        """Close the present connection; calls under way end with an error. May be called twice."""
        with contextlib.suppress(grpc.RpcError):
            await self._link.channel.close()

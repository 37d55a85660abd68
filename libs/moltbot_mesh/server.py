"""The gRPC server of one process: the wrapped handlers of its services, health of each, reflection, graceful drain.

Source: grpc.health.v1, grpc.reflection.v1alpha; https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from moltbot_mesh.channel import CHANNEL_OPTIONS
from moltbot_mesh.interceptors import HandlerTable
from moltbot_mesh.one_request import reads_one
from moltbot_mesh.sockets import bind_problem, prepare_socket, secure_socket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    _Handlers = Mapping[str, grpc.RpcMethodHandler[Any, Any]]

log = structlog.get_logger("moltbot.server")

_OPTIONS = (
    *CHANNEL_OPTIONS,
    ("grpc.so_reuseport", 0),  # two processes on one port would share calls by chance: an error is better
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_concurrent_streams", 1024),
    # Envoy passes headers up to 16 KiB; gRPC's own limits (8 KiB soft) would refuse some at random.
    ("grpc.max_metadata_size", 32 << 10),
    ("grpc.absolute_max_metadata_size", 64 << 10),
)


class _Methods(grpc.GenericRpcHandler):
    """All methods in one table.

    Not registered one by one: grpc.aio then waits anew for every method at each request.
    """

    def __init__(self, services: _Handlers, own: _Handlers) -> None:
        self._handlers = {method: reads_one(handler) for method, handler in services.items()}
        self._handlers |= {method: reads_one(handler, or_empty=True) for method, handler in own.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(handler_call_details.method)


class MeshServer:
    """A grpc.aio server that is told its handlers as services open and close.

    Args:
        handlers: By full method name; shared with the in-process channel, and may grow until `start`.
    """

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        self._server = grpc.aio.server(options=_OPTIONS)
        self._handlers = handlers
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]

    def listen(self, target: str) -> int:
        """Bind an address (`unix:/path`, `127.0.0.1:0`).

        Returns:
            The port, or 1 for a Unix socket.

        Raises:
            FailedPrecondition: The address is taken or not ours.
        """
        prepare_socket(target)
        try:
            port = self._server.add_insecure_port(target)
        except RuntimeError:
            port = 0
        if port == 0:
            raise bind_problem(target)
        secure_socket(target)
        return port

    @contextlib.asynccontextmanager
    async def serving(self, grace_s: float) -> AsyncGenerator[None]:
        """Serve while the context is open, then let running calls end for at most `grace_s` seconds."""
        own = HandlerTable()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, cast("grpc.aio.Server", own))
        names = {method.split("/")[1] for method in (*self._handlers, *own.handlers)} | {reflection.SERVICE_NAME}
        described = reflection.aio.ReflectionServicer(names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(described, cast("grpc.aio.Server", own))
        self._server.add_generic_rpc_handlers((_Methods(self._handlers, own.handlers),))
        await self._server.start()
        try:
            yield
        finally:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace_s)

    async def set_health(self, services: Sequence[str], *, serving: bool) -> None:
        """Tell health checkers about services (`moltbot.audit.v1.AuditService`; `""` is the whole process)."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in services:
            await self._health.set(service, status)

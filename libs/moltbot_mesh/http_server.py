"""HTTP/1.1 for methods that answer in `google.api.HttpBody`: the same wrapped handlers, without gRPC in between.

It stands behind Envoy, which has normalised the request, checked its headers and holds its whole body; still, nothing
that comes is trusted beyond what the limits here allow. Requests are not pipelined (Envoy never does).

Source: RFC 9112 (HTTP/1.1); llhttp through httptools parses.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from moltbot_mesh.http_connection import Connection
from moltbot_mesh.sockets import bind_problem, prepare_socket, secure_socket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    import grpc

log = structlog.get_logger("moltbot.http")

_BACKLOG = 4096  # a Unix socket refuses what does not fit, and Envoy may open hundreds at once
_SWEEP_S = 10.0
_CUT_OFF_S = 5.0


@dataclass(frozen=True, slots=True)
class HttpRoutes:
    """What a service answers by HTTP/1.1."""

    methods: Mapping[tuple[str, str], str]
    """Full method names (`/package.Service/Method`) by verb and path."""
    body_limit_bytes: int
    """Largest body of a request."""
    arrival_s: float = 130.0
    """A request that is not here after so long is dropped; Envoy's own limit is shorter."""
    idle_s: float = 600.0
    """A connection without a request is closed after this; Envoy's own limit is shorter."""
    max_connections: int = 16_384
    """More are closed as they come."""


class HttpServer:
    """One listener.

    Args:
        handlers: By full method name; shared with the gRPC server.
        routes: What is answered.
    """

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]], routes: HttpRoutes) -> None:
        self._routes = routes
        self._handlers = {
            (verb.encode(), path.encode()): handlers[method] for (verb, path), method in routes.methods.items()
        }
        self._open: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, target: str) -> int:
        """Bind an address (`unix:/path`, `127.0.0.1:0`) and serve.

        Returns:
            The port, or 1 for a Unix socket.

        Raises:
            FailedPrecondition: The address is taken or not ours.
        """
        loop = asyncio.get_running_loop()
        try:
            if target.startswith("unix:"):
                path = prepare_socket(target)
                self._server = await loop.create_unix_server(self._connection, path, backlog=_BACKLOG)
                secure_socket(target)
                return 1
            host, _, port = target.rpartition(":")
            self._server = await loop.create_server(
                self._connection, host.strip("[]"), int(port), backlog=_BACKLOG, reuse_port=False
            )
        except OSError as error:
            raise bind_problem(target) from error
        return int(self._server.sockets[0].getsockname()[1])

    @contextlib.asynccontextmanager
    async def serving(self, target: str, grace_s: float) -> AsyncGenerator[int]:
        """Serve while the context is open, then let running requests end for at most `grace_s` seconds.

        Yields:
            The port, as `listen` returns it.
        """
        port = await self.listen(target)
        sweeper = asyncio.create_task(self._sweep(), name="http-sweep")
        try:
            yield port
        finally:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
            await self._stop(grace_s)

    def _connection(self) -> Connection:
        return Connection(self._handlers, self._open, self._routes.body_limit_bytes, self._routes.max_connections)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_s = asyncio.get_running_loop().time()
            for connection in tuple(self._open):
                connection.close_if_late(now_s, self._routes.arrival_s, self._routes.idle_s)

    async def _stop(self, grace_s: float) -> None:
        if self._server is not None:
            self._server.close()
        ending = [task for connection in tuple(self._open) if (task := connection.drain()) is not None]
        if ending:
            _, left = await asyncio.wait(ending, timeout=grace_s)
            if left:
                log.warning("requests cut off at the end of the drain", requests=len(left))
        last = [task for connection in tuple(self._open) if (task := connection.abort()) is not None]
        if last:
            await asyncio.wait(last, timeout=_CUT_OFF_S)

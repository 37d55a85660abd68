"""One HTTP/1.1 connection: requests in, calls of wrapped handlers, answers out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import httptools
import structlog
from google.api.httpbody_pb2 import HttpBody
from grpc.aio import AbortError

from moltbot_mesh.errors import HTTP_STATUS
from moltbot_mesh.headers import MESH_METHOD, MESH_PATH
from moltbot_mesh.http_answer import Answer, Context, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc

    Handlers = Mapping[tuple[bytes, bytes], grpc.RpcMethodHandler[Any, Any]]

log = structlog.get_logger("moltbot.http")

_HEADER_BYTES = 64 << 10


class _Refused(Exception):
    """A request that is answered without a handler."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Connection(asyncio.Protocol):
    """One connection, one request at a time.

    Args:
        handlers: By verb and path.
        open_ones: This one is in it while it is open.
        body_limit_bytes: Largest body.
        max_connections: With more in `open_ones` it closes at once.
    """

    def __init__(
        self, handlers: Handlers, open_ones: set[Connection], body_limit_bytes: int, max_connections: int
    ) -> None:
        self._handlers = handlers
        self._open = open_ones
        self._limit = body_limit_bytes
        self._max_connections = max_connections
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Event | None = None
        self._last = False
        self._since_s = self._loop.time()
        self._arriving = False
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._headers_are_complete = False
        self._header_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = cast("asyncio.Transport", transport)
        self._open.add(self)
        if len(self._open) > self._max_connections:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client has gone: nobody waits for the answer any more."""
        self._open.discard(self)
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if (
            self._task is not None
        ):  # pipelined, or nonsense: the task has ended before a client can have the whole answer
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, _Refused) else _Refused(400, "the request is malformed"))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(_Refused(400, "the request is malformed"))

    # --- httptools

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._task is not None:
            raise _Refused(400, "requests are not pipelined")
        self._since_s = self._loop.time()
        self._arriving = True
        self._url = b""
        self._headers = []
        self._headers_are_complete = False
        self._header_bytes = self._body_bytes = 0
        self._body = []

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its fields."""
        self._count(len(name) + len(value))
        if self._headers_are_complete:
            return  # a trailer: nobody has looked at it on its way
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Its fields are here."""
        self._headers_are_complete = True

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body_bytes += len(body)
        if self._body_bytes > self._limit:
            raise _Refused(413, f"the body is too large; at most {self._limit} bytes are taken")
        self._body.append(body)

    def on_message_complete(self) -> None:
        """It is here."""
        self._arriving = False
        if self._parser.get_http_version() != "1.1":
            raise _Refused(505, "HTTP/1.1 is needed")
        verb, path = self._parser.get_method(), self._url.partition(b"?")[0]
        handler = self._handlers.get((verb, path))
        if handler is None:
            raise _Refused(404, "no such route")
        self._last = self._last or not self._parser.should_keep_alive()
        self._headers.append((MESH_METHOD, verb.decode("latin-1")))
        self._headers.append((MESH_PATH, path.decode("latin-1")))
        request = HttpBody(data=self._body[0] if len(self._body) == 1 else b"".join(self._body))
        self._body = []
        self._task = self._loop.create_task(self._serve(handler, request))

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _HEADER_BYTES:
            raise _Refused(431, "the headers are too large")

    # --- the server

    def close_if_late(self, now_s: float, arrival_s: float, idle_s: float) -> None:
        """Close what waits for the rest of a request, or for a request at all, for too long."""
        if self._task is None and now_s - self._since_s > (arrival_s if self._arriving else idle_s):
            self._transport.abort()

    def drain(self) -> asyncio.Task[None] | None:
        """Close after the answer that is being given; at once if there is none.

        Returns:
            The task that answers, if any.
        """
        self._last = True
        if self._task is None:
            self._transport.close()
        return self._task

    def abort(self) -> asyncio.Task[None] | None:
        """Close now.

        Returns:
            The task that answered, if any; it has been cancelled once the loop has gone round.
        """
        task = self._task
        if task is not None:
            task.cancel()
        self._transport.abort()
        return task

    # --- answers

    async def _serve(self, handler: Any, request: HttpBody) -> None:
        context = Context(self._headers)
        answer = Answer(self, context)
        try:
            if handler.unary_stream is not None:
                await answer.stream(handler.unary_stream(request, context))
            else:
                await answer.whole(await handler.unary_unary(request, context))
        except asyncio.CancelledError:
            self._transport.abort()
            raise
        except AbortError:
            self._failed(answer, context)
        except Exception as error:  # the boundary: nothing else would log it
            log.error("call failed", exc_info=error)
            self._failed(answer, context)
        finally:
            self._task = None
            self._since_s = self._loop.time()
        if self._last:
            self._transport.close()

    def _failed(self, answer: Answer, context: Context) -> None:
        if answer.begun:
            self._transport.abort()  # an answer without its end is an error to whoever reads it
            return
        self._transport.write(refusal(HTTP_STATUS[context.code], context.text or "internal error", last=self._last))

    def _refuse(self, refused: _Refused) -> None:
        if self._task is not None:
            self._transport.abort()
            return
        self._transport.write(refusal(refused.status, str(refused), last=True))
        self._transport.close()

    @property
    def last(self) -> bool:
        """Whether no request comes after this one."""
        return self._last

    async def write(self, data: bytes) -> None:
        """Send, and wait while the other side does not take what was sent."""
        self._transport.write(data)
        if self._writable is not None:
            await self._writable.wait()

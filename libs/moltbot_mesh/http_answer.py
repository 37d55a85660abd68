"""What a handler answers, as HTTP/1.1: head, whole bodies, events as chunks, errors.

Source: RFC 9112, 6 (message body) and 7.1 (chunked); server-sent events as in WHATWG HTML.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec
from google.api.httpbody_pb2 import HttpBody
from grpc.aio import AbortError

from moltbot_mesh.headers import MESH_STATUS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import grpc

    Pairs = Iterable[tuple[str, str | bytes]]

_EVENTS = "text/event-stream"
_PHRASES = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    413: b"Content Too Large",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
_LAST = b"0\r\n\r\n"


class Sink(Protocol):
    """The connection, as an answer sees it."""

    @property
    def last(self) -> bool:
        """Whether no request comes after this one."""
        ...

    async def write(self, data: bytes) -> None:
        """Send, and wait while the other side does not take what was sent."""
        ...


class Answer:
    """Writes what a handler answers.

    Args:
        connection: Takes it.
        context: Has the fields that go before it.
    """

    def __init__(self, connection: Sink, context: Context) -> None:
        self._connection = connection
        self._context = context
        self.begun = False

    async def whole(self, body: HttpBody) -> None:
        """Send a body whose length is known."""
        data = body.data
        head = _head(self._context.initial, body.content_type, last=self._connection.last)
        self.begun = True
        await self._connection.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(data), data))

    async def stream(self, bodies: Any) -> None:
        """Send events as they come, any other body when it is known to be the last."""
        held: HttpBody | None = None
        async with contextlib.aclosing(bodies):
            async for body in bodies:
                if body.content_type.startswith(_EVENTS):
                    await self._events(body)
                else:
                    held = body
        if not self.begun:
            await self.whole(HttpBody() if held is None else held)
        elif held is None:
            await self._connection.write(_LAST)
        else:
            await self._connection.write(b"%x\r\n%b\r\n%b" % (len(held.data), held.data, _LAST))

    async def _events(self, body: HttpBody) -> None:
        data = body.data
        if self.begun:
            await self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))
            return
        self.begun = True
        head = _head(self._context.initial, body.content_type, last=self._connection.last)
        await self._connection.write(b"%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (head, len(data), data))


class Context:
    """The servicer's side of one call: the part of `grpc.aio.ServicerContext` that such methods use."""

    __slots__ = ("_metadata", "code", "initial", "text")

    def __init__(self, metadata: list[tuple[str, str]]) -> None:
        self._metadata = metadata
        self.initial: Pairs = ()
        self.code = 13
        self.text = ""

    def invocation_metadata(self) -> list[tuple[str, str]]:
        """The request's fields."""
        return self._metadata

    def time_remaining(self) -> None:
        """HTTP has no deadline; whoever waits no longer closes."""

    async def send_initial_metadata(self, initial_metadata: Pairs) -> None:
        """Keep the fields that go before the answer."""
        self.initial = initial_metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Pairs = ()) -> NoReturn:  # noqa: ARG002
        """End the call with an error.

        Raises:
            AbortError: Always.
        """
        self.code, self.text = code.value[0], details
        raise AbortError(f"{code.name}: {details}")


def _head(fields: Pairs, content_type: str, *, last: bool) -> bytes:
    """Status line and fields, up to the one that says how the body ends."""
    status = 200
    lines: list[str] = []
    for name, value in fields:
        text = value if isinstance(value, str) else value.decode("latin-1")
        if name == MESH_STATUS:
            status = int(text)
        elif text.isprintable() and text.isascii():
            lines.append(f"{name}: {text}\r\n")
    if content_type.isprintable():
        lines.append(f"content-type: {content_type}\r\n")
    if last:
        lines.append("connection: close\r\n")
    return b"HTTP/1.1 %d %b\r\n%b" % (status, _PHRASES.get(status, b"-"), "".join(lines).encode("latin-1"))


def refusal(status: int, message: str, *, last: bool) -> bytes:
    """An answer with an error object in OpenAI's shape; the connection closes after it if it is the `last`."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = "internal_error" if status == 500 else "refused"
    error = {"message": message, "type": kind, "param": None, "code": code}
    data = msgspec.json.encode({"error": error})
    return b"%bcontent-length: %d\r\n\r\n%b" % (
        _head(((MESH_STATUS, str(status)),), "application/json", last=last),
        len(data),
        data,
    )

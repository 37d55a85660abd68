"""Upstreams to test and measure against: real servers on a Unix socket or a port of 127.0.0.1, with scripted answers.

They cost little, so that a benchmark measures what is before them: HTTP/1.1 is spoken straight on the transport, and
the answers of a script (`upstream_answers`) are made once.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec

from moltbot_testkit.upstream_answers import echoed, embeddings, generic_answer, openai_answer, ranking, whole

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from pathlib import Path

    from moltbot_testkit.upstream_answers import Reply


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """What an upstream does with a request."""

    chunks: tuple[str, ...] = ("Hello", " there", ".")
    """The pieces of the answer's text."""
    thoughts: tuple[str, ...] = ()
    """What the model thinks before it, as vLLM and DeepSeek send it (`reasoning_content`)."""
    echo: bool = False
    """Answer with the words of the last message or the prompt instead."""
    delay_s: float = 0.0
    """Before the head of the answer."""
    first_token_s: float = 0.0
    """Between the head and the first piece, when streaming."""
    between_s: float = 0.0
    """Before every later piece, when streaming."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    """Sent as it is, with `content_type`, instead of an answer."""
    content_type: str = "application/json"
    disconnect_after: int | None = None
    """Break the connection after so many pieces; a request that does not stream, before its answer."""
    finish_reason: str | None = "stop"
    """`None` leaves the end out."""
    tool_calls: tuple[tuple[str, str], ...] = ()
    """Names and arguments of calls that the model asks for after its text."""
    usage: bool = True
    dimensions: int = 8
    """Of the vectors."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Mapping[str, Any]


class _Asked(msgspec.Struct):
    stream: bool = False
    input: str | list[str] = ""


_ASKED = msgspec.json.Decoder(_Asked)


class FakeUpstream:
    """Serves a script over HTTP and keeps a record of what came.

    Args:
        script: May be replaced at any time; a request takes the one that stands when it comes.
        record: Whether `seen` grows; off in benchmarks.
    """

    base = "/v1"

    def __init__(self, script: Script | None = None, *, record: bool = True) -> None:
        self.script = script or Script()
        self.queue: list[Script] = []
        """Scripts for the next requests, one each, before `script` applies."""
        self.record = record
        self.seen: list[Seen] = []
        self.requests = 0
        self.answering = 0
        """Requests whose answer is not complete."""
        self.cancelled = 0
        """Requests whose client left before their answer was complete."""
        self.connections = 0
        """Connections accepted so far."""
        self.left = asyncio.Event()
        """Set when a client leaves early."""
        self._replies: dict[tuple[Script, str, bool], Reply] = {}

    @contextlib.asynccontextmanager
    async def serve(self, socket: Path | None = None, port: int = 0) -> AsyncGenerator[str, None]:
        """Serve while the context is open; yields the endpoint as a manifest names it.

        Args:
            socket: A Unix socket to make; without, TCP on 127.0.0.1.
            port: A free one if 0.
        """
        loop = asyncio.get_running_loop()
        open_connections: set[Connection] = set()

        def connect() -> Connection:
            return Connection(self, open_connections)

        if socket is None:
            server = await loop.create_server(connect, "127.0.0.1", port)
            endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{self.base}"
        else:
            server = await loop.create_unix_server(connect, str(socket))
            endpoint = f"unix:{socket}:{self.base}"
        try:
            yield endpoint
        finally:
            server.close()
            for connection in tuple(open_connections):
                connection.abort()
            await server.wait_closed()

    async def wait_left(self, timeout_s: float = 10.0) -> None:
        """Wait until a client has left early.

        Raises:
            TimeoutError: None did.
        """
        async with asyncio.timeout(timeout_s):
            await self.left.wait()

    def reply(self, path: str, body: bytes, script: Script) -> Reply:
        """The answer to one request."""
        if script.body is not None or script.status >= 300:
            return whole(script, script.body if script.body is not None else b'{"error":{"message":"scripted"}}')
        asked = _ASKED.decode(body)
        if path.endswith("/embeddings"):
            texts = [asked.input] if isinstance(asked.input, str) else asked.input
            return whole(script, embeddings(texts, script.dimensions))
        if path.endswith("/rerank"):
            return whole(script, ranking(body))
        if path.endswith("/models"):
            return whole(script, b'{"object":"list","data":[{"id":"fake","object":"model"}]}')
        if script.echo:
            return self.render(path, script, echoed(body), stream=asked.stream)
        key = (script, path, asked.stream)
        found = self._replies.get(key)
        if found is None:
            found = self._replies[key] = self.render(path, script, script.chunks, stream=asked.stream)
        return found

    def render(self, path: str, script: Script, chunks: Sequence[str], *, stream: bool) -> Reply:
        """The answer of the protocol that is played."""
        raise NotImplementedError


class FakeOpenAI(FakeUpstream):
    """Plays the OpenAI API: chat/completions, completions, embeddings, models."""

    def render(self, path: str, script: Script, chunks: Sequence[str], *, stream: bool) -> Reply:
        """Chunks and `[DONE]`, or one object."""
        return openai_answer(path, script, chunks, stream=stream)


class FakeGeneric(FakeUpstream):
    """Plays a home-made server: `{"text": …}`, or JSON lines of `{"text": …}` that end with `{"done": true}`."""

    base = "/answer"

    def render(self, path: str, script: Script, chunks: Sequence[str], *, stream: bool) -> Reply:  # noqa: ARG002
        """JSON lines, or one object."""
        return generic_answer(script, chunks, stream=stream)


class Connection(asyncio.Protocol):
    """One client of a fake; requests one after the other."""

    def __init__(self, upstream: FakeUpstream, open_connections: set[Connection]) -> None:
        self._upstream, self._open = upstream, open_connections
        self._buffer = b""
        self._answer: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = cast("asyncio.Transport", transport)
        self._open.add(self)
        self._upstream.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The client left, or the script broke the connection."""
        self._open.discard(self)
        if self._answer is not None and not self._answer.done():
            self._answer.cancel()
            self._upstream.cancelled += 1
            self._upstream.left.set()

    def abort(self) -> None:
        """Break the connection."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Answer once a request is complete."""
        self._buffer = self._buffer + data if self._buffer else data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().find(b"\r\ncontent-length:")
        size = int(head[at + 17 :].partition(b"\r\n")[0]) if at >= 0 else 0
        if len(rest) < size:
            return
        self._buffer = rest[size:]
        self._take(head, rest[:size])

    def _take(self, head: bytes, body: bytes) -> None:
        upstream = self._upstream
        upstream.requests += 1
        first, *lines = head.decode("latin-1").split("\r\n") if upstream.record else [head[:256].decode("latin-1")]
        path = first.split(" ")[1]
        if upstream.record:
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            upstream.seen.append(Seen(path, headers, msgspec.json.decode(body) if body else {}))
        script = upstream.queue.pop(0) if upstream.queue else upstream.script
        reply = upstream.reply(path, body or b"{}", script)
        if script.delay_s or script.first_token_s or script.between_s or script.disconnect_after is not None:
            self._answer = asyncio.get_running_loop().create_task(self._slowly(script, reply))
        else:
            self._transport.write(reply.head)
            for piece in reply.pieces:
                self._transport.write(piece)

    async def _slowly(self, script: Script, reply: Reply) -> None:
        upstream = self._upstream
        upstream.answering += 1
        try:
            await asyncio.sleep(script.delay_s)
            streams = len(reply.pieces) > 1
            if streams:
                self._transport.write(reply.head)
            for sent, piece in enumerate(reply.pieces):
                if script.disconnect_after == sent:
                    self._answer = None
                    self._transport.close()
                    return
                if streams:
                    await asyncio.sleep(script.between_s if sent else script.first_token_s)
                self._transport.write(piece if streams else reply.head + piece)
        finally:
            upstream.answering -= 1

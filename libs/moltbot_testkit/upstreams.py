"""Upstreams to test and measure against: real servers on a Unix socket or a port of 127.0.0.1, with scripted answers.

They cost little, so that a benchmark measures what is before them: HTTP/1.1 is spoken straight on the transport, and
the answers of a script are made once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from pathlib import Path


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


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, ready to be sent."""

    head: bytes
    pieces: Sequence[bytes]
    """Sent one by one when streaming; the last is the end."""


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

    async def wait_left(self, timeout_s: float = 1.0) -> None:
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
            return whole(script, msgspec.json.encode(_embeddings(texts, script.dimensions)))
        if path.endswith("/rerank"):
            return whole(script, msgspec.json.encode(_ranking(body)))
        if path.endswith("/models"):
            return whole(script, b'{"object":"list","data":[{"id":"fake","object":"model"}]}')
        if script.echo:
            return self.render(path, script, _echoed(body), stream=asked.stream)
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
        chat = path.endswith("/chat/completions")
        usage = {"prompt_tokens": 5, "completion_tokens": len(chunks), "total_tokens": 5 + len(chunks)}
        kind = ("chat.completion.chunk" if stream else "chat.completion") if chat else "text_completion"
        frame = {"id": "cmpl-fake", "object": kind, "created": 1, "model": "fake"}
        calls = [
            {"index": i, "id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(script.tool_calls)
        ]
        if not stream:
            text = "".join(chunks)
            message = {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})
            if script.thoughts:
                message["reasoning_content"] = "".join(script.thoughts)
            choice = {"index": 0, "finish_reason": script.finish_reason} | (
                {"message": message} if chat else {"text": text}
            )
            return whole(script, msgspec.json.encode(frame | {"choices": [choice]} | _given(script, usage)))
        deltas: list[dict[str, Any]] = [{"delta": {"reasoning_content": t}} for t in script.thoughts if chat]
        deltas += [{"delta": {"content": t}} if chat else {"text": t} for t in chunks]
        deltas += [{"delta": {"tool_calls": [call]}} for call in calls]
        choices = [{"index": 0, "finish_reason": None} | delta for delta in deltas]
        events = [frame | {"choices": [choice]} for choice in choices]
        end: list[bytes] = []
        if script.finish_reason is not None:
            last = {"index": 0, "finish_reason": script.finish_reason} | ({"delta": {}} if chat else {"text": ""})
            end.append(msgspec.json.encode(frame | {"choices": [last]}))
            if script.usage:
                end.append(msgspec.json.encode(frame | {"choices": []} | _given(script, usage)))
            end.append(b"[DONE]")
        pieces = [_chunked(b"data: %b\n\n" % msgspec.json.encode(event)) for event in events]
        last_piece = b"".join(_chunked(b"data: %b\n\n" % event) for event in end) + b"0\r\n\r\n"
        return Reply(_head(script, "text/event-stream", None), [*pieces, last_piece])


class FakeGeneric(FakeUpstream):
    """Plays a home-made server: `{"text": …}`, or JSON lines of `{"text": …}` that end with `{"done": true}`."""

    base = "/answer"

    def render(self, path: str, script: Script, chunks: Sequence[str], *, stream: bool) -> Reply:  # noqa: ARG002
        """JSON lines, or one object."""
        if not stream:
            answer = {"text": "".join(chunks), "finish_reason": script.finish_reason}
            return whole(script, msgspec.json.encode(answer))
        lines = [_chunked(msgspec.json.encode({"text": text}) + b"\n") for text in chunks]
        end = b'{"text":"","done":true,"finish_reason":"%b"}\n' % (script.finish_reason or "stop").encode()
        return Reply(_head(script, "application/x-ndjson", None), [*lines, _chunked(end) + b"0\r\n\r\n"])


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


def whole(script: Script, body: bytes) -> Reply:
    """An answer in one piece."""
    return Reply(_head(script, script.content_type, len(body)), [body])


def _head(script: Script, content_type: str, size: int | None) -> bytes:
    length = "Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}"
    lines = [
        f"HTTP/1.1 {script.status} Scripted",
        f"Content-Type: {content_type}",
        length,
        *(f"{name}: {value}" for name, value in script.headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _given(script: Script, usage: dict[str, int]) -> dict[str, Any]:
    return {"usage": usage} if script.usage else {}


def _echoed(body: bytes) -> list[str]:
    tree = msgspec.json.decode(body)
    text = tree["messages"][-1]["content"] if "messages" in tree else tree.get("prompt", tree.get("inputs", ""))
    words = str(text).split(" ")
    return [word if i == 0 else f" {word}" for i, word in enumerate(words)]


def _embeddings(texts: Sequence[str], dimensions: int) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": i, "embedding": vector_of(text, dimensions)} for i, text in enumerate(texts)
    ]
    tokens = sum(len(text.split()) for text in texts)
    return {
        "object": "list",
        "model": "fake",
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _ranking(body: bytes) -> dict[str, Any]:
    """Documents by how many of the query's words they have, the best first."""
    tree = msgspec.json.decode(body)
    query = set(tree["query"].split())
    scores = [len(query & set(text.split())) / len(query) for text in tree["documents"]]
    results = [{"index": i, "relevance_score": score} for i, score in enumerate(scores)]
    return {
        "model": "fake",
        "results": sorted(results, key=lambda one: -one["relevance_score"]),
        "usage": {"total_tokens": sum(len(text.split()) for text in tree["documents"])},
    }


def vector_of(text: str, dimensions: int = 8) -> list[float]:
    """A vector of length 1 that depends on the text alone, as the fakes embed."""
    digest = hashlib.shake_256(text.encode()).digest(dimensions)
    raw = [byte - 127.5 for byte in digest]
    norm = math.sqrt(sum(value * value for value in raw))
    return [value / norm for value in raw]

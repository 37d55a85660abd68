"""Answers of the played upstreams, as bytes: made from a script, and sent by `upstreams`."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_testkit.upstreams import Script


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, ready to be sent."""

    head: bytes
    pieces: Sequence[bytes]
    """Sent one by one when streaming; the last is the end."""


def openai_answer(path: str, script: Script, chunks: Sequence[str], *, stream: bool) -> Reply:
    """As the OpenAI API: chunks and `[DONE]`, or one object."""
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


def generic_answer(script: Script, chunks: Sequence[str], *, stream: bool) -> Reply:
    """As a home-made server: JSON lines, or one object."""
    if not stream:
        answer = {"text": "".join(chunks), "finish_reason": script.finish_reason}
        return whole(script, msgspec.json.encode(answer))
    lines = [_chunked(msgspec.json.encode({"text": text}) + b"\n") for text in chunks]
    end = b'{"text":"","done":true,"finish_reason":"%b"}\n' % (script.finish_reason or "stop").encode()
    return Reply(_head(script, "application/x-ndjson", None), [*lines, _chunked(end) + b"0\r\n\r\n"])


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


def echoed(body: bytes) -> list[str]:
    """The words of the last message or the prompt."""
    tree = msgspec.json.decode(body)
    text = tree["messages"][-1]["content"] if "messages" in tree else tree.get("prompt", tree.get("inputs", ""))
    words = str(text).split(" ")
    return [word if i == 0 else f" {word}" for i, word in enumerate(words)]


def embeddings(texts: Sequence[str], dimensions: int) -> bytes:
    """Their vectors."""
    data = [
        {"object": "embedding", "index": i, "embedding": vector_of(text, dimensions)} for i, text in enumerate(texts)
    ]
    tokens = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "model": "fake", "data": data, "usage": usage})


def ranking(body: bytes) -> bytes:
    """Documents by how many of the query's words they have, the best first."""
    tree = msgspec.json.decode(body)
    query = set(tree["query"].split())
    scores = [len(query & set(text.split())) / len(query) for text in tree["documents"]]
    results = [{"index": i, "relevance_score": score} for i, score in enumerate(scores)]
    usage = {"total_tokens": sum(len(text.split()) for text in tree["documents"])}
    ranked = sorted(results, key=lambda one: -one["relevance_score"])
    return msgspec.json.encode({"model": "fake", "results": ranked, "usage": usage})


def vector_of(text: str, dimensions: int = 8) -> list[float]:
    """A vector of length 1 that depends on the text alone, as the fakes embed."""
    digest = hashlib.shake_256(text.encode()).digest(dimensions)
    raw = [byte - 127.5 for byte in digest]
    norm = math.sqrt(sum(value * value for value in raw))
    return [value / norm for value in raw]

"""Answers as OpenAI's bodies: one JSON object, or server-sent events.

A streamed chunk is put together from a prefix that is encoded once a request, so a chunk costs one string encoding.

Source: https://platform.openai.com/docs/api-reference; https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import base64
import struct
import time
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from moltbot_models.generation import Delta, Embeddings, TokenLogprob, ToolCall, Usage

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _chat_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    def one(entry: TokenLogprob) -> dict[str, Any]:
        return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.token_bytes)}

    return {"content": [{**one(entry), "top_logprobs": [one(top) for top in entry.top]} for entry in logprobs]}


def _completion_logprobs(logprobs: Sequence[TokenLogprob], offset: int = 0) -> dict[str, Any]:
    offsets: list[int] = []
    for entry in logprobs:
        offsets.append(offset)
        offset += len(entry.token)
    return {
        "tokens": [entry.token for entry in logprobs],
        "token_logprobs": [entry.logprob for entry in logprobs],
        "top_logprobs": [{top.token: top.logprob for top in entry.top} for entry in logprobs],
        "text_offset": offsets,
    }


class ChatChunks:
    """The server-sent events of one chat answer.

    Args:
        request_id: The answer's id is made of it.
        model: The model that answers.
        include_usage: Whether a chunk with the usage comes before the end.
    """

    def __init__(self, request_id: str, model: str, *, include_usage: bool) -> None:
        head = {"id": f"chatcmpl-{request_id}", "object": "chat.completion.chunk", "created": int(time.time())}
        self._head = _encode({**head, "model": model})[:-1]
        tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._text = b"data: " + self._head + b',"choices":[{"index":0,"delta":{"content":'
        self._text_end = b'},"logprobs":null,"finish_reason":null}]' + tail
        self._tail = tail

    def first(self) -> bytes:
        """The chunk that names the role."""
        return self._choice({"role": "assistant", "content": ""}, None, None)

    def chunk(self, delta: Delta) -> bytes:
        """A piece of the answer; the last piece as its own chunk with the finish reason."""
        if delta.finish_reason is None and not delta.tool_calls and not delta.logprobs and not delta.reasoning:
            return self._text + _encode(delta.text) + self._text_end if delta.text else b""
        piece: dict[str, Any] = {}
        if delta.reasoning:
            piece["reasoning_content"] = delta.reasoning
        if delta.text:
            piece["content"] = delta.text
        if delta.tool_calls:
            piece["tool_calls"] = [_tool_call_delta(call) for call in delta.tool_calls]
        logprobs = _chat_logprobs(delta.logprobs) if delta.logprobs else None
        if not piece and logprobs is None:
            return self._choice({}, None, delta.finish_reason)
        data = self._choice(piece, logprobs, None)
        return data + self._choice({}, None, delta.finish_reason) if delta.finish_reason else data

    def usage(self, usage: Usage) -> bytes:
        """The chunk with the usage."""
        return b"data: " + self._head + b',"choices":[],"usage":' + _encode(_usage(usage)) + b"}\n\n"

    def _choice(self, delta: dict[str, Any], logprobs: dict[str, Any] | None, finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return b"data: " + self._head + b',"choices":[' + _encode(choice) + b"]" + self._tail


class CompletionChunks:
    """The server-sent events of one completion; arguments as for `ChatChunks`."""

    def __init__(self, request_id: str, model: str, *, include_usage: bool) -> None:
        head = {"id": f"cmpl-{request_id}", "object": "text_completion", "created": int(time.time()), "model": model}
        self._head = _encode(head)[:-1]
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._offset = 0

    def first(self) -> bytes:
        """Completions have no role: nothing."""
        return b""

    def chunk(self, delta: Delta) -> bytes:
        """A piece of the text."""
        if not delta.text and not delta.logprobs and delta.finish_reason is None:
            return b""
        logprobs = _completion_logprobs(delta.logprobs, self._offset) if delta.logprobs else None
        self._offset += len(delta.text)
        choice = {"index": 0, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish_reason}
        return b"data: " + self._head + b',"choices":[' + _encode(choice) + b"]" + self._tail

    def usage(self, usage: Usage) -> bytes:
        """The chunk with the usage."""
        return b"data: " + self._head + b',"choices":[],"usage":' + _encode(_usage(usage)) + b"}\n\n"


def _tool_call_delta(call: Any) -> dict[str, Any]:
    piece: dict[str, Any] = {"index": call.index}
    function: dict[str, Any] = {"arguments": call.arguments}
    if call.id:
        piece |= {"id": call.id, "type": "function"}
    if call.name:
        function["name"] = call.name
    return {**piece, "function": function}


def chat_body(
    request_id: str,
    model: str,
    text: str,
    calls: Sequence[ToolCall],
    logprobs: Sequence[TokenLogprob],
    finish_reason: str,
    usage: Usage,
    reasoning: str = "",
) -> bytes:
    """A whole chat answer; thoughts stand beside it, as vLLM has them."""
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in calls
        ]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": _chat_logprobs(logprobs) if logprobs else None,
        "finish_reason": finish_reason,
    }
    return _encode(
        {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "usage": _usage(usage),
        }
    )


def completion_body(
    request_id: str, model: str, text: str, logprobs: Sequence[TokenLogprob], finish_reason: str, usage: Usage
) -> bytes:
    """A whole completion."""
    choice = {
        "index": 0,
        "text": text,
        "logprobs": _completion_logprobs(logprobs) if logprobs else None,
        "finish_reason": finish_reason,
    }
    return _encode(
        {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "usage": _usage(usage),
        }
    )


def embeddings_body(model: str, embeddings: Embeddings, *, as_base64: bool) -> bytes:
    """Vectors, as numbers or as base64 of little-endian float32."""

    def value(vector: tuple[float, ...]) -> Any:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if as_base64 else vector

    data = [
        {"object": "embedding", "index": index, "embedding": value(vector)}
        for index, vector in enumerate(embeddings.vectors)
    ]
    tokens = embeddings.usage.prompt_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _encode({"object": "list", "data": data, "model": model, "usage": usage})


def model_object(
    model_id: str, created_s: int, context_length: int, input_modalities: Sequence[str] = ("text",)
) -> dict[str, Any]:
    """One model. `context_length` and `input_modalities` are not OpenAI's, but named as others name them."""
    found: dict[str, Any] = {"id": model_id, "object": "model", "created": created_s, "owned_by": "moltbot"}
    if context_length:
        found["context_length"] = context_length
    found["input_modalities"] = input_modalities
    return found


def models_body(models: Iterable[dict[str, Any]]) -> bytes:
    """The list of models."""
    return _encode({"object": "list", "data": list(models)})


def json_body(value: object) -> bytes:
    """Any JSON."""
    return _encode(value)

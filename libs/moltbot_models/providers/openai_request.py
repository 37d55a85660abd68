"""Requests as the OpenAI API takes them.

Source: OpenAI API reference, chat/completions, completions and embeddings. `top_k`, `min_p`, `stop_token_ids`,
`min_tokens`, `ignore_eos` and `structured_outputs` are vLLM's additions, sent only when they were asked for.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from moltbot_models.generation import (
        EmbeddingRequest,
        GenerationRequest,
        Media,
        Message,
        ResponseFormat,
        Sampling,
        ScoringRequest,
    )

Body = dict[str, Any]
_AUDIO_FORMATS = {"audio/wav": "wav", "audio/mpeg": "mp3"}
_ENCODED_TOGETHER = 3 << 16
"""Bytes, a multiple of 3: between two pieces other threads get their turn."""


def chat_body(request: GenerationRequest, *, stream: bool) -> Body:
    """The body for chat/completions."""
    sampling = request.sampling
    body: Body = {"model": request.model, "messages": [_message(message) for message in request.messages]}
    _add_sampling(body, sampling)
    _add_format(body, request.response_format)
    if sampling.logprobs:
        body["logprobs"] = True
        if sampling.top_logprobs:
            body["top_logprobs"] = sampling.top_logprobs
    if request.template_options:
        body["chat_template_kwargs"] = dict(request.template_options)
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": msgspec.Raw(tool.parameters.encode()),
                    **({"strict": True} if tool.strict else {}),
                },
            }
            for tool in request.tools
        ]
        choice = request.tool_choice
        if choice in {"none", "required"}:
            body["tool_choice"] = choice
        elif choice != "auto":
            body["tool_choice"] = {"type": "function", "function": {"name": choice}}
    return _streamed(body, stream=stream)


def completion_body(request: GenerationRequest, prompt: str, *, stream: bool) -> Body:
    """The body for completions."""
    body: Body = {"model": request.model, "prompt": prompt}
    _add_sampling(body, request.sampling)
    _add_format(body, request.response_format)
    if request.sampling.logprobs:
        body["logprobs"] = request.sampling.top_logprobs
    return _streamed(body, stream=stream)


def embedding_body(request: EmbeddingRequest) -> Body:
    """The body for embeddings."""
    body: Body = {"model": request.model, "input": request.inputs, "encoding_format": "float"}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return body


def ranking_body(request: ScoringRequest, query: str) -> Body:
    """The body for a ranking.

    Source: https://api.jina.ai/redoc#tag/rerank; vLLM takes the same.
    """
    return {"model": request.model, "query": query, "documents": request.inputs, "return_documents": False}


def flattened(messages: tuple[Message, ...]) -> str:
    """A conversation as plain text to continue, for upstreams that know no chat template."""
    turns = [f"{message.role.capitalize()}: {message.content}" for message in messages]
    return "\n".join([*turns, "Assistant:"])


def _streamed(body: Body, *, stream: bool) -> Body:
    body["stream"] = stream
    if stream:
        body["stream_options"] = {"include_usage": True}
    return body


def _add_sampling(body: Body, sampling: Sampling) -> None:
    asked: Body = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop": sampling.stop or None,
        "frequency_penalty": sampling.frequency_penalty or None,
        "presence_penalty": sampling.presence_penalty or None,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "stop_token_ids": sampling.stop_token_ids or None,
        "min_tokens": sampling.min_tokens or None,
        "ignore_eos": sampling.ignore_eos or None,
    }
    for key, value in asked.items():
        if value is not None:
            body[key] = value


def _add_format(body: Body, wanted: ResponseFormat | None) -> None:
    if wanted is None:
        return
    match wanted.kind:
        case "json_object":
            body["response_format"] = {"type": "json_object"}
        case "json_schema":
            schema = {"name": wanted.name or "answer", "schema": msgspec.Raw(wanted.text.encode()), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        case kind:
            body["structured_outputs"] = {kind: wanted.text}


def _message(message: Message) -> Body:
    content = [_part(part) for part in message.parts] if message.parts else message.content
    body: Body = {"role": message.role, "content": content}
    if message.name:
        body["name"] = message.name
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return body


def _part(part: str | Media) -> Body:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    data = _base64(part.data)
    if part.kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO_FORMATS[part.media_type]}}
    image = {"url": f"data:{part.media_type};base64,{data}"} | ({"detail": part.detail} if part.detail else {})
    return {"type": "image_url", "image_url": image}


def _base64(data: bytes) -> str:
    pieces = range(0, len(data), _ENCODED_TOGETHER)
    return b"".join(binascii.b2a_base64(data[i : i + _ENCODED_TOGETHER], newline=False) for i in pieces).decode("ascii")

"""Answers parse back with the types of OpenAI's own client."""

from __future__ import annotations

import base64
import json
import struct

import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from moltbot_gateway import openai_response as response
from moltbot_gateway.openai_errors import error_body, http_status
from moltbot_mesh.errors import BY_CODE, FieldViolation, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from moltbot_models.generation import Delta, Embeddings, TokenLogprob, ToolCall, ToolCallDelta, Usage

USAGE = Usage(3, 4, 1)
LOGPROB = TokenLogprob("é", -0.5, "é".encode(), (TokenLogprob("e", -1.0, b"e"),))


def events(data: bytes) -> list[dict]:
    parts = data.split(b"\n\n")
    assert parts.pop() == b""
    assert all(part.startswith(b"data: ") and b"\n" not in part for part in parts)
    return [json.loads(part.removeprefix(b"data: ")) for part in parts]


def chat_chunks(data: bytes) -> list[ChatCompletionChunk]:
    return [ChatCompletionChunk.model_validate(event, strict=True) for event in events(data)]


def test_thoughts_stand_beside_the_text():
    chunks = response.ChatChunks("r", "m", include_usage=False)
    (event,) = events(chunks.chunk(Delta(reasoning="hm")))
    assert event["choices"][0]["delta"] == {"reasoning_content": "hm"}
    (event,) = events(chunks.chunk(Delta("so", reasoning="hm")))
    assert event["choices"][0]["delta"] == {"reasoning_content": "hm", "content": "so"}
    whole = json.loads(response.chat_body("r", "m", "so", (), (), "stop", USAGE, "hm"))
    assert whole["choices"][0]["message"]["reasoning_content"] == "hm"
    assert (
        "reasoning_content"
        not in json.loads(response.chat_body("r", "m", "so", (), (), "stop", USAGE))["choices"][0]["message"]
    )


@pytest.mark.parametrize(
    "text", ["plain", 'quotes " and \\', "line\nend\r\n\n", "\x00\x1f", "猫 👩‍👩‍👧", "data: [DONE]"]
)
def test_a_piece_of_text_comes_back_as_it_was(text):
    (chunk,) = chat_chunks(response.ChatChunks("r", 'm"x', include_usage=False).chunk(Delta(text)))
    assert (chunk.id, chunk.model) == ("chatcmpl-r", 'm"x')
    assert (chunk.choices[0].delta.content, chunk.choices[0].finish_reason) == (text, None)


def test_the_quick_way_and_the_long_way_say_the_same():
    chunks = response.ChatChunks("r", "m", include_usage=True)
    (quick,) = events(chunks.chunk(Delta("a")))
    (long,) = events(chunks._choice({"content": "a"}, None, None))
    assert quick == long


def test_a_chat_stream_from_its_first_to_its_last():
    chunks = response.ChatChunks("r", "m", include_usage=True)
    first, text, last, usage = chat_chunks(
        chunks.first() + chunks.chunk(Delta("hi")) + chunks.chunk(Delta(finish_reason="stop")) + chunks.usage(USAGE)
    )
    assert first.choices[0].delta.role == "assistant"
    assert text.choices[0].delta.content == "hi"
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == ("stop", None)
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.total_tokens == 7
    assert len({chunk.created for chunk in (first, text, last, usage)}) == 1


def test_a_piece_with_text_and_the_end_is_two_chunks():
    text, end = chat_chunks(
        response.ChatChunks("r", "m", include_usage=False).chunk(Delta("hi", finish_reason="length"))
    )
    assert (text.choices[0].delta.content, text.choices[0].finish_reason) == ("hi", None)
    assert (end.choices[0].delta.content, end.choices[0].finish_reason) == (None, "length")


def test_a_piece_of_nothing_is_nothing():
    assert response.ChatChunks("r", "m", include_usage=False).chunk(Delta()) == b""
    assert response.CompletionChunks("r", "m", include_usage=False).chunk(Delta()) == b""


def test_a_tool_call_in_pieces():
    chunks = response.ChatChunks("r", "m", include_usage=False)
    head, tail = chat_chunks(
        chunks.chunk(Delta("", (ToolCallDelta(0, "c1", "f", ""),)))
        + chunks.chunk(Delta("", (ToolCallDelta(0, "", "", "{}"),)))
    )
    (call,) = head.choices[0].delta.tool_calls or ()
    assert (call.id, call.type, call.function and call.function.name) == ("c1", "function", "f")
    (call,) = tail.choices[0].delta.tool_calls or ()
    assert (call.id, call.function and call.function.arguments) == (None, "{}")


def test_log_probabilities_in_a_stream():
    (chunk,) = chat_chunks(response.ChatChunks("r", "m", include_usage=False).chunk(Delta("é", logprobs=(LOGPROB,))))
    logprobs = chunk.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert (logprobs.content[0].bytes, logprobs.content[0].top_logprobs[0].token) == ([0xC3, 0xA9], "e")


def test_a_whole_chat_answer():
    data = response.chat_body("r", "m", "hi", (), (LOGPROB,), "stop", USAGE)
    answer = ChatCompletion.model_validate_json(data, strict=True)
    assert answer.choices[0].message.content == "hi"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 1


def test_a_whole_answer_of_calls_has_no_text():
    data = response.chat_body("r", "m", "", (ToolCall("c1", "f", "{}"),), (), "tool_calls", USAGE)
    message = ChatCompletion.model_validate_json(data, strict=True).choices[0].message
    assert message.content is None
    assert [call.id for call in message.tool_calls or ()] == ["c1"]


def test_an_empty_answer_is_a_text():
    data = response.chat_body("r", "m", "", (), (), "stop", USAGE)
    assert ChatCompletion.model_validate_json(data).choices[0].message.content == ""


def test_a_completion_whole_and_in_pieces():
    whole = Completion.model_validate_json(
        response.completion_body("r", "m", "hi", (LOGPROB,), "stop", USAGE), strict=True
    )
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("hi", "stop")
    chunks = response.CompletionChunks("r", "m", include_usage=False)
    data = (
        chunks.chunk(Delta("ab"))
        + chunks.chunk(Delta("é", logprobs=(LOGPROB,)))
        + chunks.chunk(Delta(finish_reason="stop"))
    )
    found = events(data)
    assert "".join(event["choices"][0]["text"] for event in found) == "abé"
    assert found[1]["choices"][0]["logprobs"]["text_offset"] == [2]
    assert found[2]["choices"][0]["finish_reason"] == "stop"


def test_vectors_as_numbers_and_as_base64():
    vectors = Embeddings(((0.5, -0.25), (1.0, 0.0)), Usage(6))
    plain = CreateEmbeddingResponse.model_validate_json(response.embeddings_body("m", vectors, as_base64=False))
    assert [item.embedding for item in plain.data] == [[0.5, -0.25], [1.0, 0.0]]
    assert (plain.usage.total_tokens, [item.index for item in plain.data]) == (6, [0, 1])
    packed = json.loads(response.embeddings_body("m", vectors, as_base64=True))["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == (0.5, -0.25)


def test_a_model():
    assert Model.model_validate(response.model_object("m", 7, 0), strict=True).id == "m"
    assert response.model_object("m", 7, 4096)["context_length"] == 4096


@pytest.mark.parametrize(
    ("error", "status", "kind", "param", "code"),
    [
        (
            InvalidArgument("x", violations=[FieldViolation("n", "no")]),
            400,
            "invalid_request_error",
            "n",
            "invalid_argument",
        ),
        (NotFound("x", reason="MODEL_NOT_FOUND"), 404, "not_found_error", None, "model_not_found"),
        (ResourceExhausted("x", reason="QUOTA_EXCEEDED"), 429, "rate_limit_error", None, "rate_limit_exceeded"),
        (Unavailable("x", reason="UPSTREAM_ERROR"), 502, "server_error", None, "upstream_error"),
        (InvalidArgument("x", reason="REQUEST_TOO_LARGE"), 413, "invalid_request_error", None, "request_too_large"),
    ],
)
def test_an_error_as_openais_clients_know_it(error, status, kind, param, code):
    assert http_status(error) == status
    assert json.loads(error_body(error)) == {"error": {"message": "x", "type": kind, "param": param, "code": code}}


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status(kind):
    assert 400 <= http_status(kind("x")) < 600

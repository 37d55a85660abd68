"""Requests and answers survive the way through Triton."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moltbot_models.generation import (
    Delta,
    GenerationRequest,
    Message,
    Sampling,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolSpec,
    Usage,
)
from moltbot_models.wire import decode_deltas, decode_request, encode_deltas, encode_request

REQUEST = GenerationRequest(
    model="m",
    messages=(
        Message("user", "Grüße \u0000 東京 😀"),
        Message("assistant", tool_calls=(ToolCall("c1", "clock", '{"zone": "UTC"}'),)),
        Message("tool", "12:00", tool_call_id="c1"),
    ),
    tools=(ToolSpec("clock", "tells the time", '{"type": "object"}'),),
    tool_choice="required",
    sampling=Sampling(max_tokens=3, temperature=0.5, stop=("a", "b"), seed=-1, logprobs=True, top_logprobs=2),
    tenant="t",
)
DELTAS = (
    Delta("half", logprobs=(TokenLogprob("\ufffd", -0.25, b"\xf0\x9f", (TokenLogprob("x", -1.5, b"x"),)),)),
    Delta(tool_calls=(ToolCallDelta(0, "c1", "clock", "{}"),)),
    Delta(finish_reason="tool_calls", usage=Usage(3, 2, 1)),
    Delta(),
)


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_comes_out_as_it_went_in(stream: bool) -> None:
    assert decode_request(encode_request(REQUEST, stream=stream)) == (REQUEST, stream)


def test_a_prompt_without_messages_stays_one() -> None:
    request = GenerationRequest("m", prompt="once")
    assert decode_request(encode_request(request, stream=True))[0] == request


def test_deltas_come_out_as_they_went_in() -> None:
    assert decode_deltas(encode_deltas(DELTAS)) == DELTAS


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"request": {}, "stream": true}', b"\xff"])
def test_other_bytes_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own error is one too
        decode_request(data)


@pytest.mark.parametrize("data", [b"", b"[1]", b'[{"usage": {"nonsense": 1}}]', b"7"])
def test_other_answers_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode_deltas(data)


def test_what_an_earlier_release_does_not_know_is_sent_only_where_it_says_something():
    request = replace(REQUEST, tools=(ToolSpec("a"), ToolSpec("b", mesh=True)))
    data = encode_request(request, stream=False)
    assert data.count(b'"mesh"') == 1
    assert decode_request(data)[0].tools == request.tools

"""Answers written to hurt: each is an upstream's failure, so that another model may answer, and costs little."""

from __future__ import annotations

import pytest

from moltbot_mesh.errors import Unavailable
from moltbot_models.providers.loose_answer import LooseReader
from moltbot_models.providers.openai_answer import MAX_TOOL_CALLS, embeddings, whole_answer
from moltbot_models.providers.upstream_errors import refused

DEEP = b"[" * 100_000 + b"]" * 100_000
CHOICE = b'{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"%b}]%b}'


def calls(indices) -> bytes:
    one = ",".join(f'{{"index":{i},"id":"c","function":{{"name":"f","arguments":"{{}}"}}}}' for i in indices)
    return b'{"choices":[{"index":0,"message":{"tool_calls":[%b]},"finish_reason":"tool_calls"}]}' % one.encode()


@pytest.mark.parametrize(
    "body",
    [CHOICE % (b"", b',"z":' + DEEP), calls(range(MAX_TOOL_CALLS + 1)), calls([-1]), calls([10**9])],
    ids=["nested deep", "many tool calls", "a call below the first", "a call beyond the last"],
)
def test_a_hostile_answer_is_the_upstreams_failure(body):
    with pytest.raises(Unavailable, match="cannot be used"):
        whole_answer("m", body)


def test_as_many_tool_calls_as_are_run_are_taken():
    assert len(whole_answer("m", calls(range(MAX_TOOL_CALLS))).tool_calls) == MAX_TOOL_CALLS


def test_alternatives_of_alternatives_are_not_followed():
    entry = b'{"token":"a","logprob":-1,"top_logprobs":['
    body = CHOICE % (b',"logprobs":{"content":[' + entry * 300 + b"]}" * 300 + b"]}", b"")
    (logprob,) = whole_answer("m", body).logprobs
    assert logprob.top[0].top == ()


def test_hostile_vectors_and_pieces_are_the_upstreams_failure():
    with pytest.raises(Unavailable):
        embeddings("m", b'{"data":[],"z":' + DEEP + b"}", 1)
    with pytest.raises(Unavailable):
        LooseReader("m").take(b'{"text":"x","z":' + DEEP + b"}")


def test_a_hostile_error_still_says_its_status():
    assert "HTTP 503" in refused("m", 503, b'{"error":' + DEEP + b"}", "").message

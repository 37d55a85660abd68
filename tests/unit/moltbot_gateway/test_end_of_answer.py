"""An answer is recorded before its end leaves the process: what a client has whole, a killed process has not lost."""

from __future__ import annotations

import contextlib
from unittest.mock import AsyncMock, Mock

import pytest
from google.api.httpbody_pb2 import HttpBody

from moltbot_gateway.callers import Callers
from moltbot_gateway.intake import Intake
from moltbot_gateway.openai_servicer import OpenAIServicer
from moltbot_gateway.settings import GatewaySettings
from moltbot_mesh.body_answers import whole
from moltbot_mesh.call import Call, Principal, enter_call
from moltbot_models.generation import Delta, Usage

END = (Delta("", finish_reason="stop", usage=Usage(1, 2)),)
PIECES = {
    "nothing but the end": [END],
    "in one piece": [(Delta("Hello"), *END)],
    "in one go": [(Delta("Hello"),), (Delta(" there"),), END],
    "with pauses": [(Delta("Hello"),), 0.03, (Delta(" there"),), 0.03, END],
}


@pytest.fixture
def happened():
    """What the client got and what was recorded, in order."""
    return []


@pytest.fixture
def chat(happened, pool):
    recorder = Mock(commitment=Mock(return_value=b""), record=lambda _: happened.append("recorded"))
    keys = Mock(authenticate=AsyncMock(return_value=Principal("key", "key-1", "t", frozenset({"user"}))))
    callers = Callers(keys, recorder, Mock(), Mock())

    async def ask(body, pieces):
        upstream = pool.add("echo", pieces)

        async def answer(exchange, asked, *, stream):
            exchange.model = "echo"
            async with contextlib.aclosing(upstream.generate(asked, stream=stream)) as deltas:
                async for delta in deltas:
                    yield delta

        servicer = OpenAIServicer(GatewaySettings(), callers, Intake(recorder, Mock()), Mock(answer=answer), Mock())
        context = Mock(invocation_metadata=Mock(return_value=()), send_initial_metadata=AsyncMock())
        context.write = AsyncMock(side_effect=lambda data: happened.append(HttpBody.FromString(data)))
        enter_call(Call("/moltbot.gateway.v1.OpenAIService/ChatCompletions"))
        last = await whole(servicer.ChatCompletions)(HttpBody(data=body), context)
        happened.append(HttpBody.FromString(last))

    return ask


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("usage", [b"false", b"true"])
async def test_done_follows_the_record(chat, happened, pieces, usage):
    options = b'"stream":true,"stream_options":{"include_usage":' + usage + b"}"
    await chat(b'{"model":"echo","messages":[{"role":"user","content":"Hi"}],' + options + b"}", pieces)
    *before, recorded, last = happened
    assert recorded == "recorded"
    assert before[0].content_type.startswith("text/event-stream")
    assert all(b"[DONE]" not in body.data for body in before)
    assert last.data.endswith(b"data: [DONE]\n\n")
    text = b"".join(body.data for body in (*before, last))
    assert text.count(b"data: [DONE]") == text.count(b'"finish_reason":"stop"') == 1
    assert (b'"usage":{' in text) == (usage == b"true")


async def test_a_whole_answer_follows_the_record(chat, happened):
    await chat(b'{"model":"echo","messages":[{"role":"user","content":"Hi"}]}', PIECES["in one piece"])
    recorded, body = happened
    assert recorded == "recorded"
    assert b"Hello" in body.data

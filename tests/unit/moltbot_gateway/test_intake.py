"""What is kept of a request, and whom it is about."""

from __future__ import annotations

import json
from unittest.mock import AsyncMock, Mock

import pytest
from google.api.httpbody_pb2 import HttpBody
from moltbot.gateway.v1 import gateway_pb2 as pb

from moltbot_audit.redaction import redact_body, rules_of
from moltbot_gateway.callers import Callers
from moltbot_gateway.intake import Intake
from moltbot_gateway.openai_servicer import OpenAIServicer
from moltbot_gateway.servicer import GatewayServicer, _as_json
from moltbot_gateway.settings import GatewaySettings
from moltbot_mesh.call import Call, Principal, enter_call
from moltbot_mesh.errors import MoltbotError, Unavailable

KEY = "sk-" + "a1" * 12


def test_a_typed_request_is_kept_as_json_that_stays_json_when_it_is_redacted():
    message = pb.Message(role=pb.ROLE_USER, content=f"密钥:\n{KEY}")
    request = pb.ChatRequest(model="m", messages=[message], mesh=pb.MeshOptions(end_user="alice"))
    asked = _as_json(request)
    assert "密钥".encode() in asked
    kept = json.loads(redact_body(asked, rules_of(["api_key"], {}))[0])
    assert kept["messages"][0]["content"] == "密钥:\n[api_key]"
    assert kept["mesh"] == {"end_user": "alice"}


@pytest.fixture
def made():
    """Makes a servicer whose models are all away, and the records of what it was asked."""
    recorded = []
    recorder = Mock(commitment=Mock(return_value=b"c"), record=recorded.append, keeps_bodies=True)
    keys = Mock(authenticate=AsyncMock(return_value=Principal("key", "key-1", "t", frozenset({"user"}))))
    away = AsyncMock(side_effect=Unavailable("away"))
    answerer = Mock(embed=away, score=away, answer=Mock(side_effect=Unavailable("away")))

    def make(kind):
        callers = Callers(keys, recorder, Mock(), Mock())
        return kind(GatewaySettings(), callers, Intake(recorder, Mock()), answerer, Mock())

    return make, recorded


CONTEXT = Mock(invocation_metadata=Mock(return_value=()), send_initial_metadata=AsyncMock())


async def post(made, method, body):
    make, recorded = made
    enter_call(Call(f"/moltbot.gateway.v1.OpenAIService/{method}"))
    async for _ in getattr(make(OpenAIServicer), method)(HttpBody(data=body), CONTEXT):
        pass
    (exchange,) = recorded
    return exchange


BODIES = {
    "ChatCompletions": {"messages": [{"role": "user", "content": "Hi"}]},
    "Completions": {"prompt": "Hi"},
    "Embeddings": {"input": "Hi"},
    "Rerank": {"query": "Hi", "documents": ["Hi"]},
    "Classify": {"input": "Hi"},
}
BODY_NAMES = [*BODIES]


@pytest.mark.parametrize("refused", [{}, {"model": 5}, {"n": 2}], ids=["away", "field of a wrong type", "refused"])
@pytest.mark.parametrize("named", [{"user": "alice"}, {"safety_identifier": "alice", "user": "old"}])
@pytest.mark.parametrize("method", BODY_NAMES)
async def test_a_request_is_filed_under_its_person_whatever_becomes_of_it(made, method, named, refused):
    body = json.dumps(BODIES[method] | named | refused).encode()
    exchange = await post(made, method, body)
    assert exchange.outcome != "success"
    assert (exchange.end_user, exchange.input) == ("alice", body)


@pytest.mark.parametrize("body", [b'{"user": "alice", "input": "Hi"', b'{"user": 5}', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("method", [*BODY_NAMES, "Refuse"])
async def test_of_a_request_about_nobody_knows_whom_only_the_commitment_is_kept(made, method, body):
    exchange = await post(made, method, body)
    assert exchange.outcome != "success"
    assert (exchange.end_user, exchange.input, exchange.input_digest) == ("", b"", b"c")


@pytest.mark.parametrize("method", BODY_NAMES)
async def test_a_person_that_cannot_be_told_refuses_the_request(made, method):
    exchange = await post(made, method, json.dumps(BODIES[method] | {"user": 5}).encode())
    assert exchange.outcome == "refused"


MESH = pb.MeshOptions(end_user="alice")
CHAT = pb.ChatRequest(messages=[pb.Message(role=pb.ROLE_USER, parts=[pb.Part()])], mesh=MESH)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Chat", CHAT),
        ("StreamChat", pb.StreamChatRequest(chat=CHAT)),
        ("Complete", pb.CompleteRequest(mesh=MESH)),
        ("StreamComplete", pb.StreamCompleteRequest(complete=pb.CompleteRequest(mesh=MESH))),
        ("Embed", pb.EmbedRequest(mesh=MESH)),
        ("Rerank", pb.RerankRequest(mesh=MESH)),
        ("Classify", pb.ClassifyRequest(mesh=MESH)),
    ],
)
async def test_a_typed_request_is_filed_under_its_person_before_its_parts_are_read(made, method, request_):
    make, recorded = made
    enter_call(Call(f"/moltbot.gateway.v1.GatewayService/{method}"))
    answer = getattr(make(GatewayServicer), method)(request_, CONTEXT)
    with pytest.raises(MoltbotError):
        await (anext(answer) if method.startswith("Stream") else answer)
    (exchange,) = recorded
    assert (exchange.end_user, exchange.input) == ("alice", _as_json(request_))

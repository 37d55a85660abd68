"""What a model thinks before it answers is traced like its answer, however it was asked for."""

from __future__ import annotations

import base64
import json
import random
import string
import time

import pytest
from moltbot.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from moltbot.watermark.v1 import watermark_pb2, watermark_pb2_grpc

from moltbot_testkit.upstreams import Script

pytestmark = pytest.mark.timeout(180)
TENANT = "thinking"
HOW = ["http", "http stream", "grpc", "grpc stream"]


def script():
    """Thoughts and an answer of words that nobody has written before, so that no other test's are like them."""

    def word():
        return "".join(random.choices(string.ascii_lowercase, k=random.randrange(3, 9)))

    def pieces():
        paragraphs = [" ".join(word() for _ in range(20)) + "." for _ in range(4)]
        first, *others = "\n\n".join(paragraphs).split(" ")
        return (first, *(f" {other}" for other in others))

    return Script(chunks=pieces(), thoughts=pieces())


def ask(world, how, mark):
    """The thoughts, the answer and the receipt."""
    body = {
        "model": "echo",
        "messages": [{"role": "user", "content": "Where is the ship?"}],
        "moltbot": {"mark": mark},
        "stream": how == "http stream",
    }
    if how == "http":
        answer = world.http(TENANT).post("/v1/chat/completions", json=body)
        message = answer.json()["choices"][0]["message"]
        return message["reasoning_content"], message["content"], answer.headers["x-moltbot-receipt"]
    if how == "http stream":
        with world.http(TENANT).stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
        deltas = [line["choices"][0]["delta"] for line in lines if line["choices"]]
        said = ["".join(delta.get(name) or "" for delta in deltas) for name in ("reasoning_content", "content")]
        return *said, answer.headers["x-moltbot-receipt"]
    question = gateway_pb2.Message(role=gateway_pb2.ROLE_USER, content="Where is the ship?")
    chat = gateway_pb2.ChatRequest(model="echo", messages=[question], mesh=gateway_pb2.MeshOptions(mark=mark))
    with world.grpc(TENANT) as (channel, key):
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        if how == "grpc":
            whole = stub.Chat(chat, metadata=key, timeout=60)
            return whole.message.reasoning, whole.message.content, whole.receipt.audit_id
        parts = list(stub.StreamChat(gateway_pb2.StreamChatRequest(chat=chat), metadata=key, timeout=60))
    return "".join(p.reasoning for p in parts), "".join(p.content for p in parts), parts[0].receipt.audit_id


def detect(world, text, timeout_s=15.0):
    """What the Detect RPC says to the tenant, once the output has been registered."""
    limit = time.monotonic() + timeout_s
    with world.grpc(TENANT) as (channel, key):
        stub = watermark_pb2_grpc.WatermarkServiceStub(channel)
        while True:
            found = stub.Detect(watermark_pb2.DetectRequest(text=text), metadata=key, timeout=30).findings
            if found and found[0].audit_id:
                return found
            assert time.monotonic() < limit, "the text was not registered"
            time.sleep(0.1)


def event_of(world, audit_id, timeout_s=15.0):
    limit = time.monotonic() + timeout_s
    while True:
        answer = world.http(TENANT).get(f"/moltbot/v1/audit/events/{audit_id}")
        if answer.status_code == 200:
            return answer.json()["event"]["event"]
        assert time.monotonic() < limit, answer.text
        time.sleep(0.1)


@pytest.mark.parametrize("mark", [True, False], ids=["marked", "unmarked"])
@pytest.mark.parametrize("how", HOW)
def test_thoughts_are_traced_to_tenant_request_and_model(world, how, mark):
    played = script()
    with world.playing(played):
        thought, said, receipt = ask(world, how, mark)
    plain = {"reasoning": "".join(played.thoughts), "answer": "".join(played.chunks)}
    assert (thought == plain["reasoning"], said == plain["answer"]) == (not mark, not mark)
    layer = watermark_pb2.LAYER_UNICODE if mark else watermark_pb2.LAYER_FINGERPRINT
    for text, kind in ((thought, watermark_pb2.OUTPUT_KIND_REASONING), (said, watermark_pb2.OUTPUT_KIND_ANSWER)):
        (found,) = detect(world, text)
        assert (found.layer, found.kind, found.text_match) == (layer, kind, watermark_pb2.TEXT_MATCH_EXACT)
        assert (found.tenant, found.model, found.audit_id) == (TENANT, "echo", receipt)
    # Invisible characters do not survive every paste; what is left is found by the fingerprint.
    (bare,) = detect(world, plain["reasoning"])
    assert (bare.layer, bare.kind) == (watermark_pb2.LAYER_FINGERPRINT, watermark_pb2.OUTPUT_KIND_REASONING)
    event = event_of(world, receipt)
    assert bare.request_id == event["requestId"]
    for name, text in (("output", plain["answer"]), ("reasoning", plain["reasoning"])):
        assert int(event[f"{name}Bytes"]) == len(text.encode())
        assert len(base64.b64decode(event[f"{name}Commitment"])) == 32
    assert event["outputCommitment"] != event["reasoningCommitment"]


def test_the_command_line_says_that_a_pasted_paragraph_was_thought(world):
    played = script()
    with world.playing(played):
        thought, _, receipt = ask(world, "http stream", mark=True)
    detect(world, thought)
    pasted = f"Somebody wrote to me:\n\n{thought.split(chr(10) * 2)[1]}\n\nIs that so?"
    (found,) = json.loads(world.mesh.command("watermark", "detect", "-", "--json", stdin=pasted).stdout)["findings"]
    assert (found["layer"], found["kind"], found["text_match"]) == ("unicode", "reasoning", "partial")
    assert (found["tenant"], found["model"], found["audit_id"]) == (TENANT, "echo", receipt)
    assert f"reasoning of tenant {TENANT}" in world.mesh.command("watermark", "detect", "-", stdin=pasted).stdout


def test_thoughts_of_another_tenant_are_not_shown(world):
    played = script()
    with world.playing(played):
        thought, _, _ = ask(world, "http", mark=True)
    detect(world, thought)
    theirs = world.http("another").post("/moltbot/v1/watermark:detect", json={"text": thought}).json()
    assert theirs["findings"] == []

"""Other clients on the same port: gRPC stubs, reflection, health, gRPC-Web, typed REST, probes, the command line."""

from __future__ import annotations

import json
import struct
import time
import uuid

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from moltbot.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from moltbot.router.v1 import router_pb2, router_pb2_grpc
from moltbot.tool.v1 import tool_pb2, tool_pb2_grpc

from moltbot_testkit.upstreams import Script

TEXT = "moltbot-tiny"
pytestmark = pytest.mark.timeout(180)


def chat(text, model=TEXT, **changes):
    question = gateway_pb2.Message(role=gateway_pb2.ROLE_USER, content=text)
    return gateway_pb2.ChatRequest(
        model=model, messages=[question], sampling=gateway_pb2.Sampling(max_tokens=24, temperature=0), **changes
    )


def test_a_stub_gets_the_answer_that_http_gets(world):
    with world.grpc() as (channel, key):
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        whole = stub.Chat(chat("Hello"), metadata=key, timeout=60)
        request = gateway_pb2.StreamChatRequest(chat=chat("Hello"))
        pieces = list(stub.StreamChat(request, metadata=key, timeout=60))
    rest = world.http().post(
        "/moltbot/v1/chat",
        json={
            "model": TEXT,
            "messages": [{"role": "ROLE_USER", "content": "Hello"}],
            "sampling": {"maxTokens": 24, "temperature": 0},
        },
    )
    assert rest.status_code == 200, rest.text
    said = "".join(piece.content for piece in pieces)
    assert said == whole.message.content == rest.json()["message"]["content"]
    assert said


def test_errors_over_grpc_carry_their_details(world):
    with world.grpc() as (channel, key):
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        with pytest.raises(grpc.RpcError) as missing:
            stub.Chat(chat("Hello", model="no-such-model"), metadata=key, timeout=60)
        with pytest.raises(grpc.RpcError) as nobody:
            stub.Chat(chat("Hello"), timeout=60)
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND
    assert "no-such-model" in missing.value.details()
    assert any(name == "grpc-status-details-bin" for name, _ in missing.value.trailing_metadata())
    assert nobody.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_an_rpc_of_the_mesh_alone_is_closed_to_keys(world):
    with world.grpc() as (channel, key), pytest.raises(grpc.RpcError) as raised:
        router_pb2_grpc.RouterServiceStub(channel).ListModels(router_pb2.ListModelsRequest(), metadata=key, timeout=10)
    assert raised.value.code() in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}


def test_a_deadline_ends_the_call(world):
    with world.playing(Script(delay_s=20.0)), world.grpc() as (channel, key):
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as raised:
            stub.Chat(chat("Hello", model="echo"), metadata=key, timeout=0.5)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5


def test_health_and_reflection_are_on(world):
    with world.grpc() as (channel, _):
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        described = ProtoReflectionDescriptorDatabase(channel)
        assert "moltbot.gateway.v1.GatewayService" in described.get_services()
        file = described.FindFileContainingSymbol("moltbot.gateway.v1.GatewayService")
        assert "StreamChat" in str(file)


def test_grpc_web_works_on_the_same_port(world):
    message = chat("Hello").SerializeToString()
    answer = world.http().post(
        "/moltbot.gateway.v1.GatewayService/Chat",
        content=b"\0" + struct.pack(">I", len(message)) + message,
        headers={"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"},
    )
    assert answer.status_code == 200
    flag, size = struct.unpack(">BI", answer.content[:5])
    assert flag == 0
    assert gateway_pb2.ChatResponse.FromString(answer.content[5 : 5 + size]).message.content
    assert b"grpc-status:0" in answer.content[5 + size :]


def test_tools_are_listed_and_called(world):
    with world.grpc() as (channel, key):
        stub = tool_pb2_grpc.ToolServiceStub(channel)
        listed = stub.ListTools(tool_pb2.ListToolsRequest(), metadata=key, timeout=10)
    names = {tool.name for tool in listed.tools}
    assert {"calculator", "clock", "convert_units"} <= names
    answer = world.http().post("/moltbot/v1/tools/calculator:call", json={"arguments": '{"expression": "6*7"}'})
    assert answer.status_code == 200, answer.text
    assert "42" in answer.text


def test_the_probes_need_no_key(world):
    http = world.http(None)
    assert http.get("/healthz").status_code == 200
    assert http.get("/readyz").json() == {"status": "ready"}
    metrics = http.get("/metrics").text
    assert "moltbot_requests_total{" in metrics
    assert "moltbot_rpc_seconds" in metrics
    assert 'moltbot_model_cache_blocks{model="moltbot-tiny"}' in metrics
    assert 'moltbot_model_batches_total{model="minilm-l6"}' in metrics


def test_a_marked_answer_is_traced_to_its_request(world):
    words = "The lighthouse stood on a rock in the sea and its lamp turned all night long over the water. " * 4
    with world.playing(Script(chunks=tuple(f"{word} " for word in words.split()))):
        lines, receipt = [], ""
        with world.http("marked").stream(
            "POST",
            "/v1/chat/completions",
            json={
                "model": "echo",
                "stream": True,
                "messages": [{"role": "user", "content": "Tell me"}],
                "moltbot": {"mark": True},
            },
        ) as answer:
            receipt = answer.headers["x-moltbot-receipt"]
            request_id = answer.headers["x-request-id"]
            lines = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    text = "".join(line["choices"][0]["delta"].get("content") or "" for line in lines if line["choices"])
    assert text.encode("ascii", "ignore").decode().split() == words.split()
    assert text != words
    # A quotation is enough; the log has the rest.
    quoted = f"As somebody wrote: {text[: len(text) * 3 // 4]}"
    until_s = time.monotonic() + 15
    while True:  # what was marked is registered soon, together with others
        found = json.loads(world.mesh.command("watermark", "detect", "-", "--json", stdin=quoted).stdout)
        if found["findings"][0]["audit_id"] or time.monotonic() > until_s:
            break
        time.sleep(0.2)
    assert found["findings"][0]["tenant"] == "marked"
    assert found["findings"][0]["audit_id"] == receipt
    assert found["findings"][0]["request_id"] == request_id
    world.mesh.command("watermark", "detect", "-", stdin="A text that nobody here has written.", expect=65)


def test_the_command_line_talks_to_the_running_mesh(world, tmp_path):
    status = world.mesh.json("status")
    assert status["ready"]
    listed = world.mesh.json("models", "list")
    assert {TEXT, "echo"} <= {model["id"] for model in listed}
    assert world.mesh.command("chat", "Hello", "--model", TEXT).stdout.strip()
    session = f"cli-{uuid.uuid4().hex}"
    with world.playing(Script(chunks=("noted",))) as upstream:
        for text in ("one", "two"):
            world.mesh.command("chat", text, "--model", "echo", "--session", session)
        assert [m["content"] for m in upstream.seen[-1].body["messages"]] == ["one", "noted", "two"]
    assert world.mesh.command("doctor", expect=None).returncode == 0
    world.mesh.command("config", "check")
    assert "port" in world.mesh.json("config", "diff")
    world.mesh.command("watermark", "detect", str(tmp_path / "missing"), expect=1)
    listed = world.mesh.command("keys", "list").stdout
    assert "e2e" in listed
    assert world.mesh.key("e2e").rpartition("_")[2] not in listed

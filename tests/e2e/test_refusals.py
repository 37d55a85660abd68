"""What the mesh does not take: each refusal is an OpenAI error object that says what and why."""

from __future__ import annotations

import json
import socket
import threading
import time

import grpc
import httpx2 as httpx
import openai
import pytest

from moltbot_testkit.upstreams import Script

CHAT = "/v1/chat/completions"
pytestmark = pytest.mark.timeout(180)


def body(**changes):
    return {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]} | changes


def refused(answer, status, code=None):
    """The error object of an answer, after the checks that hold for all."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers.get("x-request-id")
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["message"]
    if code is not None:
        assert error["code"] == code
    return error


@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", "Bearer mb_aaaaaaaaaaaaaaaa_" + "0" * 64, "Basic YTpi", "Bearer"]
)
def test_a_wrong_key_is_refused(world, authorization):
    headers = {"Authorization": authorization} if authorization else {}
    error = refused(world.http(None).post(CHAT, json=body(), headers=headers), 401, "invalid_api_key")
    assert error["type"] == "authentication_error"


def test_a_revoked_key_is_refused_at_once(world):
    made = json.loads(world.mesh.command("keys", "create", "--tenant", "gone", "--json").stdout)
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert world.http(None).get("/v1/models", headers=headers).status_code == 200
    world.mesh.command("keys", "revoke", made["id"])
    until_s = time.monotonic() + 2.0  # said is: within a second
    while time.monotonic() < until_s:
        answer = world.http(None).get("/v1/models", headers=headers)
        if answer.status_code != 200:
            break
        time.sleep(0.02)
    refused(answer, 401, "invalid_api_key")


def test_a_used_up_quota_says_when_to_try_again(world):
    limited = world.http("limited")
    answers = [limited.post(CHAT, json=body()) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    refused(answers[-1], 429, "rate_limit_exceeded")
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    # Nobody else is held up.
    assert world.http("e2e").post(CHAT, json=body()).status_code == 200


@pytest.mark.parametrize("content", [b"", b"{", b"nonsense", b"[]", b'"text"', b"\xff\xfe", b"{}" * 2, b"[" * 100_000])
def test_what_is_not_a_json_object_is_refused(world, content):
    refused(world.http().post(CHAT, content=content, headers={"Content-Type": "application/json"}), 400)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": "Hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"stop": [1]}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"model": 5}, "model"),
        ({"tools": {}}, "tools"),
        ({"moltbot": {"session": 5}}, "moltbot"),
        ({"moltbot": {"unknown": 1}}, "moltbot"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(world, changes, param):
    error = refused(world.http().post(CHAT, json=body(**changes)), 400)
    assert (error["param"] or "").startswith(param), error


def test_unknown_fields_are_ignored(world):
    assert world.http().post(CHAT, json=body(nonsense={"a": [1]}, user="u")).status_code == 200


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(world):
    text = "x" * (20 << 20)
    answer = world.http().post(CHAT, json=body(messages=[{"role": "user", "content": text}]))
    refused(answer, 413)
    assert world.http().post(CHAT, json=body()).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nothing"), ("POST", "/v1/nothing"), ("GET", "/v1"), ("DELETE", "/v1/models"), ("GET", CHAT)],
)
def test_an_unknown_route_is_refused(world, method, path):
    answer = world.http().request(method, path)
    assert answer.status_code in {404, 405}
    refused(answer, answer.status_code)


def test_an_unknown_model_is_named(world):
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        world.client().chat.completions.create(model="no-such-model", messages=body()["messages"])


def test_a_hostile_request_id_is_replaced(world):
    answer = world.http().post(CHAT, json=body(), headers={"x-request-id": "a" * 5000})
    assert answer.status_code in {200, 431}
    if answer.status_code == 200:
        assert len(answer.headers["x-request-id"]) <= 128


def test_a_slow_upstream_does_not_hold_the_others(world):
    slow = threading.Thread(target=world.http("slow").post, args=(CHAT,), kwargs={"json": body(model="standby")})
    with world.playing(Script(delay_s=5.0), world.standby) as upstream:
        slow.start()
        while not upstream.seen:
            time.sleep(0.01)
        assert world.http().post(CHAT, json=body()).status_code == 200
        assert slow.is_alive()
        slow.join(30)


def test_keys_never_stand_in_logs_or_files(world):
    key = world.mesh.key("e2e")
    secret = key.rpartition("_")[2]
    world.http().post(CHAT, json=body())
    for path in world.mesh.directory.rglob("*"):
        if path.is_file() and not path.is_socket() and path.stat().st_size < 200 << 20:
            assert secret.encode() not in path.read_bytes(), path


def test_http_1_0_and_odd_requests_do_not_hurt(world):
    port = world.mesh.port
    for raw in (b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    assert httpx.get(f"{world.mesh.url}/healthz").status_code == 200


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("/moltbot.gateway.v1.GatewayService/Chat", grpc.StatusCode.INVALID_ARGUMENT),
        ("/moltbot.gateway.v1.GatewayService/StreamChat", grpc.StatusCode.INVALID_ARGUMENT),
        ("/moltbot.gateway.v1.OpenAIService/ChatCompletions", grpc.StatusCode.INVALID_ARGUMENT),
        ("/moltbot.tool.v1.ToolService/ListTools", grpc.StatusCode.UNAUTHENTICATED),
        ("/grpc.health.v1.Health/Check", grpc.StatusCode.OK),
    ],
)
def test_a_grpc_call_without_a_message_is_answered_at_once(world, method, code):
    with world.grpc() as (channel, _):
        call = channel.stream_stream(method)(iter(()), timeout=20)
        try:
            answers = list(call)
        except grpc.RpcError:
            answers = []
        assert call.code() is code
        assert bool(answers) is (code is grpc.StatusCode.OK)


def test_a_grpc_web_call_without_a_message_is_answered_at_once(world):
    path = "/moltbot.gateway.v1.GatewayService/Chat"
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    answer = world.http(None).post(path, content=b"", headers=headers, timeout=20)
    assert answer.headers.get("grpc-status") == "3" or b"grpc-status:3" in answer.content.replace(b" ", b"")

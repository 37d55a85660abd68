"""What somebody tries who wants in, or wants others out."""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
import socket
import stat
import threading
import time
from pathlib import Path

import grpc
import httpx2 as httpx
import pytest
from google.protobuf import descriptor_pb2

from moltbot_daemon.daemon import descriptor_set
from moltbot_mesh.identity import MeshIdentity, load_mesh_key
from moltbot_mesh.second_factor import code_at
from moltbot_testkit.upstreams import Script

CHAT = "/v1/chat/completions"
DETECT = "/moltbot/v1/watermark:detect"
pytestmark = pytest.mark.timeout(180)
FOR_SERVICES = {
    "PrivacyService": {"GetBodyKey", "PutBodies"},
    "AuditService": {"AppendStream"},
    "ContextService": {"AppendTurn", "AssemblePrompt"},
    "RouterService": {"Route", "ReportOutcomes", "WatchTable"},
    "WatermarkService": {
        "GetSamplerProfile",
        "ReserveMark",
        "EmbedStream",
        "RegisterOutput",
        "BatchRegisterOutputs",
        "BuildLabel",
    },
}
ROLE_FOR = {
    "AuditService": {"Verify": "auditor"},
    "PrivacyService": {
        "GetBody": "auditor",
        "Shred": "security",
        "PlaceHold": "auditor",
        "ReleaseHold": "auditor",
        "ListHolds": "auditor",
    },
    "RouterService": {"ListModels": "admin"},
    "WatermarkService": dict.fromkeys(("IssueKey", "RotateKey", "RevokeKey", "ListKeys"), "security"),
}
OPEN = {"OperationsService"}


def body(**changes):
    return {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]} | changes


def raw(world, data):
    """What comes back for bytes that no client library would send."""
    with socket.create_connection(("127.0.0.1", world.mesh.port), timeout=10) as connection:
        connection.sendall(data)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def methods():
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set().read_bytes())
    return [
        (file.package, service.name, method.name)
        for file in files.file
        if file.package.startswith("moltbot.") and "third_party" not in file.package
        for service in file.service
        for method in service.method
    ]


def refusal(world, package, service, method, metadata):
    """The status of a method that is called with an empty message."""
    with grpc.insecure_channel(world.mesh.target) as channel:
        try:
            list(channel.stream_stream(f"/{package}.{service}/{method}")(iter([b""]), metadata=metadata, timeout=20))
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


@pytest.mark.parametrize("role", ["nobody", "user", "admin", "security", "auditor"])
def test_each_method_opens_to_its_callers_alone(world, role):
    metadata = [] if role == "nobody" else [("authorization", f"Bearer {world.mesh.key('e2e', role)}")]
    wrong = []
    for package, service, method in methods():
        code = refusal(world, package, service, method, metadata)
        if service in OPEN:
            expected = {"OK"}
        elif method in FOR_SERVICES.get(service, ()):
            expected = {"PERMISSION_DENIED"}
        elif role == "nobody":
            # An empty message may be refused as one before the caller is asked for.
            expected = {"UNAUTHENTICATED"} | ({"INVALID_ARGUMENT"} if service == "GatewayService" else set())
        elif ROLE_FOR.get(service, {}).get(method, role) != role:
            expected = {"PERMISSION_DENIED"}
        else:
            continue
        if code not in expected:
            wrong.append((service, method, code))
    assert not wrong


def test_an_administrator_without_a_second_factor_is_refused_and_recorded(world):
    made = world.mesh.json("keys", "create", "--tenant", "factor", "--role", "auditor")
    http = httpx.Client(base_url=world.mesh.url, headers={"Authorization": f"Bearer {made['key']}"}, trust_env=False)
    asked = f"factor-{time.time_ns()}"
    with http:
        answer = http.get("/moltbot/v1/audit/holds", headers={"x-request-id": asked})
        assert answer.status_code == 401
        assert "SECOND_FACTOR_REQUIRED" in answer.text
        uri = world.mesh.json("keys", "enrol", made["id"])["uri"]
        wrong = {"x-otp": "000000"}
        assert [http.get("/moltbot/v1/audit/holds", headers=wrong).status_code for _ in range(5)] == [401] * 5
        locked = http.get("/moltbot/v1/audit/holds", headers={"x-otp": code_at(uri, time.time())})
        assert (locked.status_code, "LOCKED_OUT" in locked.text) == (401, True)
        world.mesh.command("keys", "unlock", made["id"])
        assert http.get("/moltbot/v1/audit/holds", headers={"x-otp": code_at(uri, time.time())}).status_code == 200
        assert http.get("/moltbot/v1/audit/holds").status_code == 200
    query = {"requestId": asked, "pageSize": 10}
    for _ in range(100):
        events = world.http("auditor", "auditor").post("/moltbot/v1/audit/events:query", json=query).json()["events"]
        if events:
            break
        time.sleep(0.05)
    (found,) = events
    assert (found["event"]["subject"], found["event"]["reason"]) == (made["id"], "SECOND_FACTOR_REQUIRED")


def test_an_administrator_of_the_system_reads_nobody_elses_records(world):
    receipt = world.http("somebody").get("/v1/models").headers["x-moltbot-receipt"]
    assert wait_for(world.http("somebody"), receipt).status_code == 200
    for role in ("admin", "security"):
        assert world.http("e2e", role).get(f"/moltbot/v1/audit/events/{receipt}").status_code == 404
    assert world.http("auditor", "auditor").get(f"/moltbot/v1/audit/events/{receipt}").status_code == 200


def wait_for(client, receipt):
    for _ in range(100):
        answer = client.get(f"/moltbot/v1/audit/events/{receipt}")
        if answer.status_code == 200:
            break
        time.sleep(0.05)
    return answer


@pytest.mark.parametrize("header", ["x-mesh-token", "X-Mesh-Token", "X-MESH-TOKEN", "x_mesh_token"])
def test_not_even_a_true_mesh_token_is_believed_from_outside(world, header):
    token = MeshIdentity(load_mesh_key(world.mesh.data_dir / "mesh.key"), "gateway").token()
    stolen = {header: token, "x-mesh-tenant": "e2e", "x-mesh-subject": "gateway"}
    for path in ("/moltbot/v1/audit/checkpoint", "/v1/models", "/moltbot/v1/sessions"):
        assert world.http(None).get(path, headers=stolen).status_code in {400, 401}, path
    if header.islower() and "_" not in header:
        assert refusal(world, "moltbot.audit.v1", "AuditService", "Query", list(stolen.items())) == "UNAUTHENTICATED"


def test_a_forged_token_is_none(world):
    made = f"v1.gateway.{int(time.time()) + 500}"
    mac = base64.urlsafe_b64encode(hmac.digest(bytes(32), b"moltbot mesh token\0" + made.encode(), "sha256"))
    answer = world.http(None).get("/v1/models", headers={"x-mesh-token": f"{made}.{mac.decode().rstrip('=')}"})
    assert answer.status_code == 401


def test_an_address_is_not_believed(world):
    claims = {"x-forwarded-for": "6.6.6.6", "x-moltbot-peer": "7.7.7.7:1", "x-envoy-external-address": "8.8.8.8"}
    receipt = world.http().get("/v1/models", headers=claims).headers["x-moltbot-receipt"]
    admin = world.http("e2e", "auditor")
    for _ in range(100):
        answer = admin.get(f"/moltbot/v1/audit/events/{receipt}")
        if answer.status_code == 200:
            break
        time.sleep(0.05)
    assert answer.json()["event"]["event"]["peer"] == "127.0.0.1"


def test_headers_are_not_taken_away_by_naming_them_as_the_connections_own(world):
    key = world.mesh.key("e2e")
    answer = raw(
        world,
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close, x-moltbot-peer, x-mesh-path\r\n"
        b"Authorization: Bearer " + key.encode() + b"\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 ")
    assert b"x-mesh" not in answer.lower()


def test_two_lengths_are_one_too_many(world):
    answer = raw(
        world,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"moltbot_" not in answer


def test_a_tenants_things_are_its_own(world):
    mine, theirs = world.http("own-mine"), world.http("own-theirs")
    created = mine.post("/moltbot/v1/sessions", json={"session": "s1", "tenant": "own-theirs"}).json()
    assert created["session"]["tenant"] == "own-mine"
    assert theirs.get("/moltbot/v1/sessions/s1?tenant=own-mine").status_code == 404
    assert theirs.delete("/moltbot/v1/sessions/s1?tenant=own-mine").json() == {"deletedTurns": "0"}
    assert mine.get("/moltbot/v1/sessions/s1").status_code == 200
    answer = mine.post(CHAT, json=body(moltbot={"mark": True}))
    receipt = answer.headers["x-moltbot-receipt"]
    for _ in range(100):
        if mine.get(f"/moltbot/v1/audit/events/{receipt}").status_code == 200:
            break
        time.sleep(0.05)
    sequence = mine.get(f"/moltbot/v1/audit/events/{receipt}").json()["event"]["sequence"]
    for name in (receipt, sequence):
        assert theirs.get(f"/moltbot/v1/audit/events/{name}").status_code == 404
        assert theirs.get(f"/moltbot/v1/audit/events/{name}/proof").status_code == 404
    asked = {"tenant": "own-mine", "page_size": 1000}
    events = theirs.post("/moltbot/v1/audit/events:query", json=asked).json()["events"]
    assert {event["event"]["tenant"] for event in events} <= {"own-theirs"}
    text = answer.json()["choices"][0]["message"]["content"]
    found = theirs.post(DETECT, json={"text": text, "tenant": "own-mine"}).json()
    assert found["findings"] == []


def test_strangers_add_no_series_to_the_metrics(world):
    stranger, known = world.http(None), world.http("e2e")

    def ask(number):
        stranger.get(f"/made-up/{number}")
        stranger.get(f"/v1/models/made-up-{number}")
        known.get(f"/v1/models/made-up-{number}")
        known.post(CHAT, json=body(model=f"made-up-{number}"))
        known.get(f"/moltbot/v1/sessions/made-up-{number}")
        known.get(f"/made-up/{number}/deeper")

    ask(0)
    time.sleep(0.5)
    before = len(stranger.get("/metrics").text.splitlines())
    for number in range(1, 20):
        ask(number)
    time.sleep(0.5)
    metrics = stranger.get("/metrics").text
    assert "made-up" not in metrics
    assert len(metrics.splitlines()) <= before + 20


def test_marks_piled_on_one_letter_hold_up_nobody(world):
    evil = "a" + "\N{COMBINING ACUTE ACCENT}\N{COMBINING DOT BELOW}" * 400_000
    answers = []
    attack = threading.Thread(
        target=lambda: answers.append(world.http("piling").post(DETECT, json={"text": evil}).status_code)
    )
    attack.start()
    slowest_s = 0.0
    while attack.is_alive():
        started_s = time.perf_counter()
        assert world.http(None).get("/healthz").status_code == 200
        slowest_s = max(slowest_s, time.perf_counter() - started_s)
    assert answers == [200]
    assert slowest_s < 2.0


@pytest.mark.parametrize(
    "content",
    [
        b'{"model":"echo","messages":[{"role":"user","content":"x"}],"z":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
        b'{"model":"echo","messages":[{"role":"user","content":"x"}],"stop":"' + b"x" * 5_000_000 + b'"}',
        b'{"model":"echo","messages":[{"role":"user","content":"x"}],"tool_choice":"' + b"x" * 5_000_000 + b'"}',
    ],
    ids=["nested deep", "a long stop", "a long tool_choice"],
)
def test_a_hostile_body_gets_a_short_refusal(world, content):
    answer = world.http().post(CHAT, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert len(answer.content) < 2000


@pytest.mark.parametrize("event_id", ["9" * 19, "-1", "1" * 64, "..%2f..", "%D9%A3"])
def test_odd_names_of_events_are_refused(world, event_id):
    assert world.http().get(f"/moltbot/v1/audit/events/{event_id}").status_code in {400, 404}


def test_any_time_can_be_asked_for(world):
    times = {"start_time": "0001-01-01T00:00:00Z", "end_time": "9999-12-31T23:59:59Z"}
    assert world.http().post("/moltbot/v1/audit/events:query", json=times).status_code == 200


def test_what_an_upstream_counts_is_recorded_within_reason(world):
    claim = {"prompt_tokens": -5, "completion_tokens": 10**15}
    choice = {"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}
    script = Script(body=str({"choices": [choice], "usage": claim}).replace("'", '"').encode())
    with world.playing(script, world.standby):
        answer = world.http().post(CHAT, json=body(model="standby"))
    assert answer.json()["choices"][0]["message"]["content"] == "hi"
    receipt = answer.headers["x-moltbot-receipt"]
    for _ in range(100):
        found = world.http().get(f"/moltbot/v1/audit/events/{receipt}")
        if found.status_code == 200:
            break
        time.sleep(0.05)
    assert found.status_code == 200, "an answer went out that is in no record"


def test_half_sent_requests_keep_nobody_out(world):
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", world.mesh.port), timeout=10))
            half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert world.http().post(CHAT, json=body()).status_code == 200


def test_what_the_mesh_writes_is_for_its_owner_alone(world):
    world.http().post(CHAT, json=body(moltbot={"session": "modes"}))
    places = [Path(top) / name for top, folders, files in os.walk(world.mesh.data_dir) for name in (*folders, *files)]
    shared = [path for path in places if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert not shared

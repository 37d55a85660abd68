"""Every request stands in the log once, with a proof that holds without the mesh; damage is found and named."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import shutil
import subprocess
import sys
import time
import uuid

import grpc
import pytest
from moltbot.router.v1 import router_pb2, router_pb2_grpc
from moltbot.watermark.v1 import watermark_pb2, watermark_pb2_grpc

from moltbot_audit import check_bundle, merkle
from moltbot_audit.checkpoint import verify
from moltbot_testkit.upstreams import Script

CHAT = "/v1/chat/completions"
EVENTS = "/moltbot/v1/audit/events"
pytestmark = pytest.mark.timeout(180)


def body(**changes):
    return {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]} | changes


def requests_of(world, request_id, at_least=1, timeout_s=15.0):
    """The records of one HTTP request, as the auditor sees them, once they have come."""
    limit = time.monotonic() + timeout_s
    while True:
        answer = world.http("auditor", "auditor").post(
            f"{EVENTS}:query", json={"requestId": request_id, "type": "EVENT_TYPE_REQUEST", "pageSize": 100}
        )
        assert answer.status_code == 200, answer.text
        found = answer.json().get("events", [])
        if len(found) >= at_least:
            return found
        assert time.monotonic() < limit, f"no record of {request_id}"
        time.sleep(0.05)


def event_id(logged):
    return str(uuid.UUID(bytes=base64.b64decode(logged["event"]["eventId"])))


def proof_of(world, found_id, timeout_s=15.0):
    limit = time.monotonic() + timeout_s
    while True:
        answer = world.http("auditor", "auditor").get(f"{EVENTS}/{found_id}/proof")
        if answer.status_code == 200:
            return answer.json()
        assert answer.status_code in {404, 412, 400, 503}, answer.text
        assert time.monotonic() < limit, answer.text
        time.sleep(0.1)


def assert_proven(world, logged):
    proof = proof_of(world, event_id(logged))
    key = world.http("auditor", "auditor").get("/moltbot/v1/audit/checkpoint").json()["verifierKey"]
    head = verify(proof["checkpoint"], key)
    leaf = merkle.leaf_hash(base64.b64decode(proof["record"]))
    hashes = [base64.b64decode(one) for one in proof.get("hashes", [])]
    index = int(proof.get("sequence", 0))
    assert merkle.verify_inclusion(leaf, index, head.size, hashes, head.root)
    # The proof is of this record and no other.
    assert not merkle.verify_inclusion(merkle.leaf_hash(b"another"), index, head.size, hashes, head.root)


def plain(world, headers):
    return world.http().post(CHAT, json=body(), headers=headers)


def streamed(world, headers):
    with world.http().stream("POST", CHAT, json=body(stream=True), headers=headers) as answer:
        answer.read()
    return answer


def embedded(world, headers):
    return world.http().post("/v1/embeddings", json={"model": "minilm-l6", "input": "a"}, headers=headers)


def listed(world, headers):
    return world.http().get("/v1/models", headers=headers)


def wrong_key(world, headers):
    return world.http(None).post(CHAT, json=body(), headers=headers | {"Authorization": "Bearer wrong"})


def not_json(world, headers):
    return world.http().post(CHAT, content=b"{", headers=headers | {"Content-Type": "application/json"})


def wrong_type(world, headers):
    return world.http().post(CHAT, json=body(temperature="hot"), headers=headers)


def too_big(world, headers):
    return world.http().post(CHAT, content=b'{"x": "' + b"x" * (17 << 20), headers=headers)


def unknown_route(world, headers):
    return world.http().post("/v1/nothing", json={}, headers=headers)


def unknown_model(world, headers):
    return world.http().post(CHAT, json=body(model="no-such-model"), headers=headers)


def upstream_down(world, headers):
    return world.http().post(CHAT, json=body(model="down"), headers=headers)


@pytest.mark.parametrize(
    ("ask", "status", "outcome"),
    [
        (plain, 200, "OUTCOME_SUCCESS"),
        (streamed, 200, "OUTCOME_SUCCESS"),
        (embedded, 200, "OUTCOME_SUCCESS"),
        (listed, 200, "OUTCOME_SUCCESS"),
        (wrong_key, 401, "OUTCOME_REFUSED"),
        (not_json, 400, "OUTCOME_REFUSED"),
        (wrong_type, 400, "OUTCOME_REFUSED"),
        (too_big, 413, "OUTCOME_REFUSED"),
        (unknown_route, 404, "OUTCOME_REFUSED"),
        (unknown_model, 404, "OUTCOME_REFUSED"),
        (upstream_down, (502, 503), "OUTCOME_FAILED"),
    ],
)
def test_a_request_stands_in_the_log_once_and_is_proven(world, ask, status, outcome):
    asked = f"audit-{uuid.uuid4().hex}"
    answer = ask(world, {"x-request-id": asked})
    assert answer.status_code in (status if isinstance(status, tuple) else (status,))
    assert answer.headers["x-request-id"] == asked
    found = requests_of(world, asked)
    time.sleep(0.3)
    found = requests_of(world, asked)
    assert len(found) == 1, [one["event"].get("action") for one in found]
    event = found[0]["event"]
    assert event["outcome"] == outcome, event
    assert event["httpStatus"] == answer.status_code
    if answer.headers.get("x-moltbot-receipt"):
        assert event_id(found[0]) == answer.headers["x-moltbot-receipt"]
    assert_proven(world, found[0])


@pytest.mark.parametrize(
    ("tenant", "verb", "path", "sent", "status", "outcome"),
    [
        ("e2e", "GET", "/moltbot/v1/tools", None, 200, "OUTCOME_SUCCESS"),
        (None, "GET", "/moltbot/v1/tools", None, 401, "OUTCOME_REFUSED"),
        ("e2e", "GET", "/moltbot/v1/tools/nothing", None, 404, "OUTCOME_REFUSED"),
        ("e2e", "GET", "/moltbot/v1/sessions?page_size=5000", None, 400, "OUTCOME_REFUSED"),
        ("e2e", "POST", "/moltbot/v1/sessions", {}, 200, "OUTCOME_SUCCESS"),
        (None, "POST", "/moltbot/v1/sessions", {}, 401, "OUTCOME_REFUSED"),
        ("e2e", "POST", "/moltbot/v1/watermark:detect", {"text": "a text"}, 200, "OUTCOME_SUCCESS"),
        (None, "POST", "/moltbot/v1/watermark:detect", {"text": "a text"}, 401, "OUTCOME_REFUSED"),
        ("e2e", "GET", "/moltbot/v1/audit/checkpoint", None, 200, "OUTCOME_SUCCESS"),
        (None, "POST", f"{EVENTS}:query", {}, 401, "OUTCOME_REFUSED"),
        (None, "POST", "/moltbot/v1/chat", {"model": "echo"}, 400, "OUTCOME_REFUSED"),
        ("e2e", "POST", "/moltbot/v1/chat", b"{", 400, "OUTCOME_REFUSED"),
        ("e2e", "POST", "/moltbot/v1/sessions", b"{", 400, "OUTCOME_REFUSED"),
    ],
)
def test_a_call_to_any_service_stands_in_the_log_once_and_is_proven(world, tenant, verb, path, sent, status, outcome):
    asked = f"call-{uuid.uuid4().hex}"
    given = {"content": sent} if isinstance(sent, bytes) else {"json": sent}
    answer = world.http(tenant).request(verb, path, headers={"x-request-id": asked}, **given)
    assert answer.status_code == status, answer.text
    requests_of(world, asked)
    time.sleep(0.3)
    (found,) = requests_of(world, asked)
    event = found["event"]
    assert (event["outcome"], event["httpStatus"]) == (outcome, status)
    assert event["action"] == f"{verb} {path.partition('?')[0]}"
    assert event["tenant"] == ("" if sent == b"{" else tenant or "")  # by Envoy, which knows no keys
    assert_proven(world, found)


def test_a_grpc_call_that_is_refused_stands_in_the_log_once(world):
    calls = {f"grpc-{uuid.uuid4().hex}": admin for admin in (False, True)}
    for asked, admin in calls.items():
        with world.grpc(role="admin" if admin else "user") as (channel, key):
            stub = router_pb2_grpc.RouterServiceStub(channel)
            metadata = [*key, ("x-request-id", asked)]
            with contextlib.nullcontext() if admin else pytest.raises(grpc.RpcError):
                stub.ListModels(router_pb2.ListModelsRequest(), metadata=metadata, timeout=10)
    for asked, admin in calls.items():
        (found,) = requests_of(world, asked)
        event = found["event"]
        assert event["action"] == "/moltbot.router.v1.RouterService/ListModels"
        assert event["outcome"] == ("OUTCOME_SUCCESS" if admin else "OUTCOME_REFUSED")
        assert event["reason"] == ("" if admin else "PERMISSION_DENIED")
        assert event.get("httpStatus", 0) == 0
        assert_proven(world, found)


@pytest.mark.parametrize(
    ("method", "message", "reason"),
    [
        ("/moltbot.tool.v1.ToolService/NoSuchMethod", b"", "ROUTE_NOT_FOUND"),
        ("/no.such.v1.Service/Method", b"", "ROUTE_NOT_FOUND"),
        ("/moltbot.tool.v1.ToolService/ListTools", bytes(25 << 20), "REQUEST_TOO_LARGE"),
        ("/moltbot.tool.v1.ToolService/ListTools", b"\xff\xff", "MALFORMED_BODY"),
    ],
)
def test_a_grpc_call_that_no_service_takes_stands_in_the_log_once(world, method, message, reason):
    asked = f"nowhere-{uuid.uuid4().hex}"
    with world.grpc() as (channel, key), pytest.raises(grpc.RpcError):
        channel.unary_unary(method)(message, metadata=[*key, ("x-request-id", asked)], timeout=10)
    requests_of(world, asked)
    time.sleep(0.3)
    (found,) = requests_of(world, asked)
    event = found["event"]
    assert (event["outcome"], event["reason"]) == ("OUTCOME_REFUSED", reason)
    assert event["action"] == method
    assert event.get("httpStatus", 0) == 0
    assert_proven(world, found)


def test_a_request_to_a_model_makes_no_records_of_the_calls_within_the_mesh(world):
    asked = f"within-{uuid.uuid4().hex}"
    sent = body(moltbot={"session": "", "tools": ["calculator"]})
    assert world.http().post(CHAT, json=sent, headers={"x-request-id": asked}).status_code == 200
    requests_of(world, asked)
    time.sleep(0.3)
    assert len(requests_of(world, asked)) == 1


def test_a_quota_refusal_stands_in_the_log(world):
    http = world.http("limited-too")
    ids = [f"quota-{uuid.uuid4().hex}" for _ in range(4)]
    answers = [http.post(CHAT, json=body(), headers={"x-request-id": one}) for one in ids]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    (found,) = requests_of(world, ids[-1])
    assert (found["event"]["outcome"], found["event"]["tenant"]) == ("OUTCOME_REFUSED", "limited-too")
    assert_proven(world, found)


def test_a_client_that_left_stands_in_the_log_as_cancelled(world):
    asked = f"left-{uuid.uuid4().hex}"
    with (
        world.playing(Script(chunks=("word ",) * 200, between_s=0.05)),
        world.http().stream("POST", CHAT, json=body(stream=True), headers={"x-request-id": asked}) as answer,
    ):
        next(answer.iter_lines())
    (found,) = requests_of(world, asked)
    assert found["event"]["outcome"] == "OUTCOME_CANCELLED"


def test_the_log_holds_no_prompt_and_no_answer(world):
    secret, said = f"canary-{uuid.uuid4().hex}", f"reply-{uuid.uuid4().hex}"
    with world.playing(Script(chunks=(said,))):
        answer = world.http().post(CHAT, json=body(messages=[{"role": "user", "content": secret}]))
    assert said in answer.text
    requests_of(world, answer.headers["x-request-id"])
    log = world.mesh.data_dir / "audit"
    for path in log.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert secret.encode() not in content, path
            assert said.encode() not in content, path


def test_a_tenant_sees_its_own_records_alone(world):
    asked = f"mine-{uuid.uuid4().hex}"
    world.http().post(CHAT, json=body(), headers={"x-request-id": asked})
    requests_of(world, asked)
    seen = world.http("stranger").post(f"{EVENTS}:query", json={"requestId": asked}).json()
    assert not seen.get("events")


def test_a_trace_joins_all_that_one_request_did(world):
    trace = uuid.uuid4().hex
    answer = world.http().post(
        CHAT,
        json={
            "model": "moltbot-tiny",
            "messages": [{"role": "user", "content": "What is 17 * 23?"}],
            "temperature": 0,
            "max_tokens": 64,
            "moltbot": {"tools": ["calculator"]},
        },
        headers={"traceparent": f"00-{trace}-00000000000000aa-01"},
    )
    requests_of(world, answer.headers["x-request-id"])
    events = world.http().get(f"/moltbot/v1/audit/traces/{trace}").json()["events"]
    types = {one["event"]["type"] for one in events}
    assert {"EVENT_TYPE_REQUEST", "EVENT_TYPE_MODEL_CALL", "EVENT_TYPE_TOOL_CALL"} <= types
    (request,) = (one for one in events if one["event"]["type"] == "EVENT_TYPE_REQUEST")
    children = [one for one in events if one["event"].get("parentEventId") == request["event"]["eventId"]]
    assert len(children) >= 3


def test_verify_finds_nothing_in_a_sound_log_and_each_flipped_byte_in_another(world, tmp_path):
    for _ in range(20):
        world.http().post(CHAT, json=body())
    time.sleep(1.5)  # a signed checkpoint is at most a second behind
    sound = json.loads(world.mesh.command("audit", "verify", "--json").stdout)
    assert sound["intact"]
    assert sound["records"] >= 20

    copy = tmp_path / "log"
    for _ in range(5):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(world.mesh.data_dir / "audit" / "log", copy)
        whole = json.loads(world.mesh.command("audit", "verify", str(copy), "--json").stdout)
        assert whole["intact"]
        if whole["records"] == whole["covered"]:
            break  # else the last record came after the checkpoint: damaged, it would be a torn end and no finding
        time.sleep(1.5)
    segment = next(path for path in sorted(copy.rglob("*")) if path.is_file() and "segment" in str(path))
    content = segment.read_bytes()
    written = len(content.rstrip(b"\0"))
    for place in (written // 4, written // 2, written - 40):
        segment.write_bytes(content[:place] + bytes([content[place] ^ 0x20]) + content[place + 1 :])
        done = world.mesh.command("audit", "verify", str(copy), "--json", expect=65)
        found = json.loads(done.stdout)
        assert not found["intact"]
        assert segment.name in " ".join(found["problems"]), found["problems"]
    segment.write_bytes(content)
    assert json.loads(world.mesh.command("audit", "verify", str(copy), "--json").stdout)["intact"]


def receipt_of(world, audit_id, timeout_s=15.0):
    limit = time.monotonic() + timeout_s
    while True:
        answer = world.http().get(f"/v1/receipts/{audit_id}")
        if answer.status_code == 200:
            return answer
        assert answer.status_code in {400, 404, 412, 503}, answer.text
        assert time.monotonic() < limit, answer.text
        time.sleep(0.1)


def test_the_receipt_of_an_answer_is_checked_without_the_mesh(world):
    answer = world.http().post(CHAT, json=body())
    audit_id = answer.headers["x-moltbot-receipt"]
    found = receipt_of(world, audit_id)
    assert found.headers["content-type"] == "application/json"
    key = world.http("auditor", "auditor").get("/moltbot/v1/audit/checkpoint").json()["verifierKey"]
    for receipt in (found.content, json.dumps(found.json(), indent=2).encode()):
        assert check_bundle.check(io.BytesIO(receipt), check_bundle.Key.parse(key))[1] == 1
    (told,) = [item for item in found.json()["items"] if "record" in item]
    assert check_bundle.event(base64.b64decode(told["record"]))["event_id"] == audit_id
    other = world.http("stranger").get(f"/v1/receipts/{audit_id}")
    assert other.status_code == 404, other.text


def test_a_trace_is_exported_and_checked_without_the_mesh(world, tmp_path):
    trace_id = uuid.uuid4().hex
    parent = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    answer = world.http().post(CHAT, json=body(), headers=parent)
    receipt_of(world, answer.headers["x-moltbot-receipt"])
    file = tmp_path / "trace.bundle"
    written = world.mesh.json("audit", "export", "--trace", trace_id, "--out", str(file))
    assert written["bytes"] == file.stat().st_size
    key = world.http("auditor", "auditor").get("/moltbot/v1/audit/checkpoint").json()["verifierKey"]
    checked = world.mesh.json("audit", "verify", str(file), "--key", key)
    assert checked["proven"]
    assert checked["records"] >= 2  # the request, and the call to the model
    program = tmp_path / "check.py"
    program.write_text(world.mesh.command("audit", "verifier").stdout)
    done = subprocess.run(
        [sys.executable, "-I", program, file, "--key", key], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "model call" in done.stdout
    assert "PROVEN" in done.stdout
    assert "Hello" not in file.read_text()
    drawn = world.mesh.command("audit", "trace", trace_id).stdout.splitlines()
    assert "request:" in drawn[0]
    assert any(line.startswith(("├─", "└─")) and "route:" in line for line in drawn)
    assert any(line.startswith(("├─", "└─")) and "model call:" in line for line in drawn)


def test_what_happens_to_keys_and_routes_and_processes_stands_in_the_log(world):
    tenant = f"keys-{uuid.uuid4().hex[:8]}"
    with world.grpc("officer", "security") as (channel, key):
        stub = watermark_pb2_grpc.WatermarkServiceStub(channel)
        stub.IssueKey(watermark_pb2.IssueKeyRequest(tenant=tenant), metadata=key, timeout=20)
        stub.RotateKey(watermark_pb2.RotateKeyRequest(tenant=tenant), metadata=key, timeout=20)

    def events_of(kind):
        query = {"type": kind, "pageSize": 500}
        found = world.http("auditor", "auditor").post(f"{EVENTS}:query", json=query).json().get("events", [])
        return [one["event"] for one in found]

    limit = time.monotonic() + 15
    while True:
        acts = [one["action"] for one in events_of("EVENT_TYPE_WATERMARK_KEY") if tenant in one["object"]]
        if acts == ["rotate key", "issue key"] or time.monotonic() > limit:
            break
        time.sleep(0.1)
    assert acts == ["rotate key", "issue key"]
    starts = [one for one in events_of("EVENT_TYPE_LIFECYCLE") if one["action"] == "start"]
    assert starts
    assert all(len(one["attributes"]["configuration_sha256"]) == 64 for one in starts)
    assert any("keys create" in one["action"] for one in events_of("EVENT_TYPE_ADMINISTRATION"))


def test_sql_finds_a_request_and_stands_in_the_log_itself(world):
    asked = f"sql-{uuid.uuid4().hex}"
    answer = world.http().post(CHAT, json=body(), headers={"x-request-id": asked})
    requests_of(world, asked)
    statement = f"SELECT event_id, tenant, model, http_status FROM requests WHERE request_id = '{asked}'"
    (row,) = world.mesh.json("audit", "sql", statement)
    receipt = answer.headers["x-moltbot-receipt"]
    assert row == {"event_id": receipt, "tenant": "e2e", "model": "echo", "http_status": 200}
    (day, *_) = world.mesh.json("audit", "sql", "FROM requests_per_day WHERE tenant = 'e2e' AND model = 'echo'")
    assert day["succeeded"] >= 1
    limit = time.monotonic() + 15
    while True:
        query = {"type": "EVENT_TYPE_AUDIT_READ", "action": "audit sql", "object": "events"}
        found = world.http("auditor", "auditor").post(f"{EVENTS}:query", json=query).json().get("events", [])
        if any(one["event"]["attributes"]["statement"] == statement for one in found):
            break
        assert time.monotonic() < limit, found
        time.sleep(0.1)


def test_sql_reads_nothing_but_the_log(world):
    refused = world.mesh.command("audit", "sql", "SELECT * FROM read_text('/etc/hostname')", expect=64)
    assert refused.stdout == ""
    assert "disabled" in refused.stderr

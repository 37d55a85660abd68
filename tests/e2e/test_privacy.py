"""What people write is kept for inquiries, nowhere in clear, and destroyed on demand; the proofs outlive it."""

from __future__ import annotations

import base64
import io
import json
import time
import uuid

import pytest

from moltbot_audit import check_bundle
from moltbot_testkit.upstreams import Script

CHAT = "/v1/chat/completions"
AUDIT = "/moltbot/v1/audit"
pytestmark = pytest.mark.timeout(180)


def say(world, text, **fields):
    body = {"model": "echo", "messages": [{"role": "user", "content": text}], "user": "alice"} | fields
    answer = world.http("privacy").post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-moltbot-receipt"]


def body_of(world, event_id, timeout_s=15.0):
    limit = time.monotonic() + timeout_s
    while True:
        answer = world.http("auditor", "auditor").get(f"{AUDIT}/events/{event_id}/body")
        if answer.status_code not in {404, 503, 504} or time.monotonic() > limit:
            return answer
        time.sleep(0.1)


def clear(field):
    return base64.b64decode(field)


def receipt_of(world, event_id):
    for _ in range(150):
        answer = world.http("privacy").get(f"/v1/receipts/{event_id}")
        if answer.status_code == 200:
            return answer.json()
        time.sleep(0.1)
    raise AssertionError(answer.text)


def on_disk(world):
    for file in world.mesh.directory.rglob("*"):
        if file.is_file():
            yield file, file.read_bytes()


def test_a_canary_is_kept_and_is_nowhere_on_disk_in_clear(world):
    canary = f"canary-{uuid.uuid4().hex}"
    plain = say(world, canary)
    with world.http("privacy").stream(
        "POST", CHAT, json={"model": "echo", "messages": [{"role": "user", "content": canary}], "stream": True}
    ) as answer:
        answer.read()
    with world.playing(Script(chunks=("I say ", canary))):
        said = say(world, "Hello")
    assert canary.encode() in clear(body_of(world, plain).json()["body"]["input"])
    assert canary.encode() in clear(body_of(world, said).json()["body"]["output"])
    time.sleep(1.0)
    found = [str(file) for file, data in on_disk(world) if canary.encode() in data]
    assert not found


def test_a_commitment_is_opened_by_its_key(world):
    event_id = say(world, "Open me")
    answer = body_of(world, event_id)
    assert answer.status_code == 200, answer.text
    body = answer.json()["body"]
    (told,) = [item for item in receipt_of(world, event_id)["items"] if "record" in item]
    event = check_bundle.event(base64.b64decode(told["record"]))
    assert check_bundle.commits(clear(body["commitmentKey"]), clear(body["input"]), event["input_commitment"])
    assert not check_bundle.commits(clear(body["commitmentKey"]), b"other words", event["input_commitment"])


def test_shredding_needs_the_hold_to_be_released_and_leaves_the_proofs(world):
    subject = {"tenant": "privacy", "name": f"user-{uuid.uuid4().hex}"}
    event_id = say(world, "Forget me", user=subject["name"])
    before = receipt_of(world, event_id)
    assert body_of(world, event_id).status_code == 200
    auditor, security = world.http("auditor", "auditor"), world.http("officer", "security")
    held = auditor.post(
        f"{AUDIT}/holds",
        json={"hold": {"tenant": "privacy", "dataSubject": subject["name"], "reason": "case 7"}},
    )
    assert held.status_code == 200, held.text
    shred = {"subject": subject, "reason": "request of the person"}
    refused = security.post(f"{AUDIT}:shred", json=shred)
    assert refused.status_code == 400, refused.text
    assert "case 7" in refused.text
    hold_id = held.json()["hold"]["holdId"]
    assert auditor.post(f"{AUDIT}/holds/{hold_id}:release", json={"reason": "closed"}).status_code == 200
    done = security.post(f"{AUDIT}:shred", json=shred)
    assert done.json() == {"events": 1}, done.text
    assert auditor.get(f"{AUDIT}/events/{event_id}/body").status_code == 404
    key = check_bundle.Key.parse(auditor.get(f"{AUDIT}/checkpoint").json()["verifierKey"])
    for receipt in (before, receipt_of(world, event_id)):
        assert check_bundle.check(io.BytesIO(json.dumps(receipt).encode()), key)[1] == 1


@pytest.mark.parametrize(("role", "status"), [("user", 403), ("admin", 403), ("security", 403)])
def test_only_the_auditor_reads_bodies(world, role, status):
    event_id = say(world, "Private")
    assert world.http("privacy", role).get(f"{AUDIT}/events/{event_id}/body").status_code == status


def test_reading_holding_and_shredding_stand_in_the_log(world):
    event_id = say(world, "Look")
    assert body_of(world, event_id).status_code == 200
    world.http("officer", "security").post(
        f"{AUDIT}:shred", json={"subject": {"tenant": "privacy", "name": "nobody"}, "reason": "a test"}
    )
    auditor = world.http("auditor", "auditor")
    reads = auditor.post(f"{AUDIT}/events:query", json={"type": "EVENT_TYPE_AUDIT_READ", "pageSize": 200}).json()
    assert any(event_id in one["event"].get("object", "") for one in reads["events"])
    acts = auditor.post(f"{AUDIT}/events:query", json={"type": "EVENT_TYPE_ADMINISTRATION", "pageSize": 200}).json()
    (shred,) = [one for one in acts["events"] if one["event"].get("attributes", {}).get("why") == "a test"]
    assert "nobody" not in json.dumps(shred)

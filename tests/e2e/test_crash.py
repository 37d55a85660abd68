"""The daemon killed with SIGKILL under load: what a client was answered is in the log and in its session, once.

`MOLTBOT_CRASH_KILLS` says how often; `make test-crash` kills 50 times and prints what it counted.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import shutil
import sqlite3
import statistics
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict
from pathlib import Path

import httpx2 as httpx
import pytest
import yaml
from moltbot.audit.v1 import audit_pb2

from moltbot_audit import merkle
from moltbot_audit.checkpoint import verify
from moltbot_audit.segment import read, segments
from moltbot_audit.tiles import Tree
from moltbot_audit.verify import CHECKPOINT_FILE, KEY_FILE
from moltbot_mesh.audit.frames import Frame
from moltbot_testkit.background import in_background
from moltbot_testkit.crash import Load, children, running
from moltbot_testkit.mesh import DaemonMesh
from moltbot_testkit.process import ProcessFailedError
from moltbot_testkit.upstreams import FakeOpenAI, Script

KILLS = int(os.environ.get("MOLTBOT_CRASH_KILLS", "3"))
CLIENTS, PROOFS = 6, 100
DURING_RESTART = 3  # every third kill comes while the daemon starts
IN_LOG_S, ORPHANS_S = 20.0, 2.0
TENANT = "crash"
pytestmark = pytest.mark.timeout(120 + 20 * KILLS)


class Auditor:
    """Reads what is new in the log, over the API, while the load goes on."""

    def __init__(self, mesh):
        headers = {"Authorization": f"Bearer {mesh.key('auditor', 'auditor')}"}
        self.http = httpx.Client(base_url=mesh.url, headers=headers, timeout=30, trust_env=False)
        self.found = {}  # request id: audit id
        self.twice = []
        self._read_until = -1

    def read(self):
        newest, token = self._read_until, ""
        while True:
            wanted = {"type": "EVENT_TYPE_REQUEST", "tenant": TENANT, "pageSize": 1000, "pageToken": token}
            answer = self.http.post("/moltbot/v1/audit/events:query", json=wanted)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            for logged in page.get("events", []):
                sequence, event = int(logged.get("sequence", 0)), logged["event"]
                if sequence <= self._read_until:
                    break
                newest = max(newest, sequence)
                if event["requestId"] in self.found:
                    self.twice.append(event["requestId"])
                self.found[event["requestId"]] = str(uuid.UUID(bytes=base64.b64decode(event["eventId"])))
            else:
                token = page.get("nextPageToken", "")
                if token:
                    continue
            self._read_until = newest
            return

    def missing(self, acknowledged):
        """Those whose record does not come; what a daemon left when it was killed, the next one sends."""
        limit = time.monotonic() + IN_LOG_S
        while True:
            self.read()
            left = [one for one in acknowledged if one.request_id not in self.found]
            if not left or time.monotonic() > limit:
                return left
            time.sleep(0.05)

    def proves(self, receipt):
        key = self.http.get("/moltbot/v1/audit/checkpoint").json()["verifierKey"]
        proof = self.http.get(f"/moltbot/v1/audit/events/{receipt}/proof").json()
        head = verify(proof["checkpoint"], key)
        hashes = [base64.b64decode(one) for one in proof.get("hashes", [])]
        leaf = merkle.leaf_hash(base64.b64decode(proof["record"]))
        return merkle.verify_inclusion(leaf, int(proof.get("sequence", 0)), head.size, hashes, head.root)


def turns(http, session):
    """What the user said in a session, in order."""
    found, token = [], ""
    while True:
        page = http.get(f"/moltbot/v1/sessions/{session}/turns", params={"pageSize": 1000, "pageToken": token})
        assert page.status_code == 200, page.text
        for turn in page.json().get("turns", []):
            found += [message["content"] for message in turn["messages"] if message["role"] == "user"]
        token = page.json().get("nextPageToken", "")
        if not token:
            return found


def assert_session_whole(http, client, acknowledged):
    """Each turn once, in the order of asking; none of those missing that were answered."""
    kept = turns(http, client.session)
    place = {text: n for n, text in enumerate(client.asked_in_session)}
    order = [place[text] for text in kept]
    assert order == sorted(set(order)), f"{client.name}: turns stand twice or out of order"
    lost = {one.text for one in acknowledged if one.session == client.session} - set(kept)
    assert not lost, f"{client.name}: turns lost: {sorted(lost)[:5]}"


def kill(mesh):
    """Kill the daemon; its children end with it."""
    left = children(mesh.process.pid)
    assert left, "the daemon has no Envoy"
    mesh.process.kill()
    limit = time.monotonic() + ORPHANS_S
    while running(left):
        assert time.monotonic() < limit, f"processes outlive the daemon: {left}"
        time.sleep(0.005)


def kill_while_it_starts(mesh, after_s):
    """Start it and kill it before, or just after, it serves; True if it did not serve."""
    failed = []

    def start():
        try:
            mesh.start()
        except ProcessFailedError as error:
            failed.append(error)

    before = mesh.process
    starting = threading.Thread(target=start)
    starting.start()
    while mesh.process is before or not mesh.process.is_running:
        time.sleep(0.005)
    time.sleep(after_s)
    mesh.process.kill()
    starting.join()
    return bool(failed)


def assert_log_whole(directory, acknowledged):
    """Read the stopped log from its files alone: every answer's record once, under a proof; nothing twice, no gap."""
    head = verify((directory / CHECKPOINT_FILE).read_text(), (directory / KEY_FILE).read_text())
    tree = Tree(directory)
    tree.restore(head.size)
    records, counters, requests, ids = {}, defaultdict(list), Counter(), Counter()
    for first, path in segments(directory / "segments"):
        for frame in read(path, first):
            assert isinstance(frame, Frame), frame
            event = audit_pb2.AuditEvent.FromString(frame.payload)
            ids[event.event_id] += 1
            if event.HasField("producer"):
                counters[event.producer.producer_id, event.producer.epoch].append(event.producer.counter)
            if event.type == audit_pb2.EVENT_TYPE_REQUEST and event.tenant == TENANT:
                requests[event.request_id] += 1
                records[str(uuid.UUID(bytes=event.event_id))] = (frame.number, frame.payload, event)
    lost = [one for one in acknowledged if one.receipt not in records]
    twice = [one for one in (*ids.values(), *requests.values()) if one > 1]
    for one in acknowledged:
        if one.receipt in records:
            sequence, payload, event = records[one.receipt]
            assert event.request_id == one.request_id
            proof = merkle.inclusion_proof(sequence, head.size, tree.node)
            assert merkle.verify_inclusion(merkle.leaf_hash(payload), sequence, head.size, proof, head.root), one
    gaps = [epoch for (_, epoch), found in counters.items() if sorted(found) != list(range(1, len(found) + 1))]
    assert not gaps, f"events are missing between others in epochs {gaps}"
    return len(ids), lost, twice


def assert_databases_whole(data_dir):
    checked = 0
    for path in data_dir.rglob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path
        checked += 1
    assert checked >= 3, "the sessions, the audit index and the registry of marks"


def fingerprinted(data_dir):
    (path,) = data_dir.rglob("registry.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {row[0] for row in db.execute("SELECT audit_id FROM outputs")}


@pytest.fixture
def mesh():
    """A daemon in front of one upstream that answers at once and one that takes its time."""
    directory = Path(tempfile.mkdtemp(prefix="moltbot-crash-"))
    quick, slow = Script(echo=True), Script(echo=True, delay_s=0.002, between_s=0.003)
    with (
        in_background(FakeOpenAI(quick, record=False)) as quick_url,
        in_background(FakeOpenAI(slow, record=False)) as slow_url,
    ):
        manifests = [
            {"id": name, "type": "text-generation", "provider": "openai", "endpoint": url}
            for name, url in {"quick": quick_url, "slow": slow_url}.items()
        ]
        (directory / "models.yaml").write_text(yaml.safe_dump({"models": manifests}))
        settings = {"inference": {"engine": "none"}, "router": {"models": [str(directory / "models.yaml")]}}
        with DaemonMesh(directory, settings) as daemon:
            yield daemon
    shutil.rmtree(directory)


def test_what_was_answered_survives_every_kill(mesh):
    dice = random.Random(os.environ.get("MOLTBOT_CRASH_SEED", "1"))
    auditor, restarts_s, unserved = Auditor(mesh), [], 0
    headers = {"Authorization": f"Bearer {mesh.key(TENANT)}"}
    with (
        Load(CLIENTS, mesh.url, mesh.key(TENANT), ["quick", "slow"]) as load,
        httpx.Client(base_url=mesh.url, headers=headers, timeout=30, trust_env=False) as http,
    ):
        kills = checked = 0
        while kills < KILLS:
            time.sleep(dice.uniform(0.2, 1.5))
            kill(mesh)
            kills += 1
            answered = load.acknowledged
            if kills % DURING_RESTART == DURING_RESTART - 1 and kills < KILLS:
                unserved += kill_while_it_starts(mesh, dice.uniform(0.0, 1.2 * statistics.median(restarts_s or [2.0])))
                kills += 1
            began_s = time.monotonic()
            mesh.start()
            restarts_s.append(time.monotonic() - began_s)
            lost = auditor.missing(answered)
            for client in load.clients:
                assert_session_whole(http, client, answered)
            fresh, checked = len(answered) - checked, len(answered)
            print(
                f"kill {kills} of {KILLS}: {fresh} answers before it, {len(lost)} of all lost, "
                f"serves again after {restarts_s[-1]:.2f} s",
                flush=True,
            )
            assert not lost, lost[:5]
        time.sleep(0.5)
        load.stop()
        answered = load.acknowledged
        assert len(answered) > 10 * KILLS
        lost = auditor.missing(answered)
        for client in load.clients:
            assert_session_whole(http, client, answered)
    time.sleep(1.5)  # a checkpoint is signed
    unproven = [one for one in dice.sample(answered, min(PROOFS, len(answered))) if not auditor.proves(one.receipt)]
    verified = json.loads(mesh.command("audit", "verify", "--json").stdout)
    auditor.http.close()
    assert mesh.stop() == [0]
    records, lost_on_disk, twice = assert_log_whole(mesh.data_dir / "audit" / "log", answered)
    assert_databases_whole(mesh.data_dir)
    unfingerprinted = len({one.receipt for one in answered} - fingerprinted(mesh.data_dir))
    print(
        f"{KILLS} kills, {unserved} of them before the daemon served; {len(answered)} answers acknowledged, "
        f"{sum(bool(one.session) for one in answered)} of them turns; {load.broken} broken off, "
        f"refused {dict(load.refused)}; {len(lost)} records lost, {len(twice)} twice; {records} records in the log; "
        f"restart {statistics.median(restarts_s):.2f} s median, {max(restarts_s):.2f} s at most; "
        f"{unfingerprinted} answers without a fingerprint"
    )
    assert not lost, lost[:5]
    assert not lost_on_disk, lost_on_disk[:5]
    assert not twice
    assert not auditor.twice
    assert not unproven, unproven[:5]
    assert verified["intact"], verified["problems"]
    assert set(load.refused) <= {502, 503, 504}, load.refused
    assert mesh.log().count("Traceback") == 0, mesh.log()[-8000:]

"""The daemon killed with SIGKILL under load: what a client was answered is in the log and in its session, once.

`MOLTBOT_CRASH_KILLS` says how often; `make test-crash` kills 50 times and prints what it counted.
"""

from __future__ import annotations

import base64
import collections
import json
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest
import yaml

from moltbot_audit import merkle
from moltbot_audit.checkpoint import verify
from moltbot_testkit.background import in_background
from moltbot_testkit.mesh import DaemonMesh
from moltbot_testkit.upstreams import FakeOpenAI, Script

KILLS = int(os.environ.get("MOLTBOT_CRASH_KILLS", "3"))
CLIENTS, PROOFS = 6, 100
pytestmark = pytest.mark.timeout(120 + 20 * KILLS)


@dataclass(frozen=True)
class Acknowledged:
    """An answer that a client has in its hands, whole."""

    request_id: str
    receipt: str
    session: str
    text: str


class Client(threading.Thread):
    """Asks without a pause, over restarts."""

    def __init__(self, mesh: DaemonMesh, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.acknowledged: list[Acknowledged] = []
        self.broken = 0
        self._url, self._key, self._number, self._stop_asking = mesh.url, mesh.key("crash"), number, stop

    def run(self) -> None:
        asked = 0
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx.Client(base_url=self._url, headers=headers, timeout=10, trust_env=False) as http:
            while not self._stop_asking.is_set():
                asked += 1
                try:
                    self._ask(http, asked)
                except httpx.HTTPError:
                    self.broken += 1
                    time.sleep(0.05)

    def _ask(self, http: httpx.Client, asked: int) -> None:
        kind = asked % 3
        session = f"client-{self._number}" if kind == 0 else ""
        request_id, text = f"crash-{uuid.uuid4().hex}", f"{self._number}/{asked}"
        body = {"model": "echo", "messages": [{"role": "user", "content": text}], "stream": kind == 2}
        if session:
            body["moltbot"] = {"session": session}
        answer = http.post("/v1/chat/completions", json=body, headers={"x-request-id": request_id})
        whole = answer.text.rstrip().endswith("data: [DONE]") if kind == 2 else answer.status_code == 200
        if answer.status_code == 200 and whole:
            self.acknowledged.append(Acknowledged(request_id, answer.headers["x-moltbot-receipt"], session, text))


def pages(http: httpx.Client) -> list[dict]:
    """The record of every request, oldest first."""
    found, token = [], ""
    while True:
        query = {"type": "EVENT_TYPE_REQUEST", "tenant": "crash", "pageSize": 1000, "pageToken": token}
        page = http.post("/moltbot/v1/audit/events:query", json=query).json()
        found += page.get("events", [])
        token = page.get("nextPageToken", "")
        if not token:
            return found[::-1]


def turns(http: httpx.Client, session: str) -> list[str]:
    """What the user said in a session, in order."""
    found, token = [], ""
    while True:
        answer = http.get(f"/moltbot/v1/sessions/{session}/turns", params={"pageSize": 100, "pageToken": token})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        for turn in page.get("turns", []):
            found += [message["content"] for message in turn["messages"] if message["role"] == "user"]
        token = page.get("nextPageToken", "")
        if not token:
            return found


def assert_proven(http: httpx.Client, one: Acknowledged) -> None:
    key = http.get("/moltbot/v1/audit/checkpoint").json()["verifierKey"]
    proof = http.get(f"/moltbot/v1/audit/events/{one.receipt}/proof").json()
    head = verify(proof["checkpoint"], key)
    hashes = [base64.b64decode(one) for one in proof.get("hashes", [])]
    leaf = merkle.leaf_hash(base64.b64decode(proof["record"]))
    assert merkle.verify_inclusion(leaf, int(proof.get("sequence", 0)), head.size, hashes, head.root)


def test_what_was_answered_survives_every_kill():
    directory = Path(tempfile.mkdtemp(prefix="moltbot-crash-"))
    upstream, dice = FakeOpenAI(Script(chunks=("yes", " it", " is")), record=False), random.Random(1)
    with in_background(upstream) as url:
        manifest = {"id": "echo", "type": "text-generation", "provider": "openai", "endpoint": url}
        (directory / "models.yaml").write_text(yaml.safe_dump({"models": [manifest]}))
        settings = {"inference": {"engine": "none"}, "router": {"models": [str(directory / "models.yaml")]}}
        mesh = DaemonMesh(directory, settings)
        with mesh:
            stop = threading.Event()
            clients = [Client(mesh, number, stop) for number in range(CLIENTS)]
            mesh.key("auditor", admin=True)
            for client in clients:
                client.start()
            restarts_s = []
            for kill in range(KILLS):
                time.sleep(dice.uniform(0.4, 1.6))
                mesh.process.kill()
                began = time.monotonic()
                mesh.start()
                restarts_s.append(time.monotonic() - began)
                print(f"kill {kill + 1} of {KILLS}: {sum(len(c.acknowledged) for c in clients)} answered", flush=True)
            time.sleep(0.5)
            stop.set()
            for client in clients:
                client.join(30)
            time.sleep(2)  # the log integrates, a checkpoint is signed
            answered = [one for client in clients for one in client.acknowledged]
            assert len(answered) > 10 * KILLS
            headers = {"Authorization": f"Bearer {mesh.key('auditor', admin=True)}"}
            with httpx.Client(base_url=mesh.url, headers=headers, timeout=30, trust_env=False) as auditor:
                records = collections.Counter(record["event"]["requestId"] for record in pages(auditor))
                lost = [one for one in answered if records[one.request_id] == 0]
                twice = [request_id for request_id, count in records.items() if count > 1]
                for one in dice.sample(answered, min(PROOFS, len(answered))):
                    if one not in lost:
                        assert_proven(auditor, one)
            headers = {"Authorization": f"Bearer {mesh.key('crash')}"}
            with httpx.Client(base_url=mesh.url, headers=headers, timeout=30, trust_env=False) as http:
                said = {client.name: turns(http, client.name) for client in clients}
            verified = json.loads(mesh.command("audit", "verify", "--json").stdout)
            print(
                f"{KILLS} kills, {len(answered)} answers acknowledged, {sum(c.broken for c in clients)} broken off; "
                f"{len(lost)} records lost, {len(twice)} twice; {verified['records']} records in the log; restart "
                f"{statistics.median(restarts_s):.2f} s median, {max(restarts_s):.2f} s at most"
            )
            assert not lost, lost[:5]
            assert not twice, twice[:5]
            assert verified["intact"], verified["problems"]
            for client in clients:
                kept = said[client.name]
                assert len(set(kept)) == len(kept), "a turn stands twice"
                expected = [one.text for one in client.acknowledged if one.session]
                assert [text for text in kept if text in set(expected)] == expected
    shutil.rmtree(directory)

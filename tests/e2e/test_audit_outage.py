"""The audit service away under load, then back: every answer has its record, once, in order; any gap is declared.

`MOLTBOT_AUDIT_OUTAGE_S` says for how long; `make test-audit-outage` takes a minute and prints what it counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import httpx2 as httpx
import pytest
import yaml
from moltbot.audit.v1 import audit_pb2
from prometheus_client.parser import text_string_to_metric_families

from moltbot_audit.segment import read, segments
from moltbot_mesh.audit.frames import Frame
from moltbot_testkit.background import in_background
from moltbot_testkit.crash import Load
from moltbot_testkit.mesh import ServicesMesh
from moltbot_testkit.upstreams import FakeOpenAI, Script

OUTAGE_S = float(os.environ.get("MOLTBOT_AUDIT_OUTAGE_S", "5"))
CLIENTS, CALM_S, BACK_S, FULL_S = 6, 1.0, 60.0, 120.0
TENANT = "outage"
pytestmark = pytest.mark.timeout(600 + 6 * OUTAGE_S)


@contextlib.contextmanager
def started(**recording):
    """Separate services in front of an upstream that answers at once."""
    directory = Path(tempfile.mkdtemp(prefix="moltbot-outage-"))
    with in_background(FakeOpenAI(Script(echo=True), record=False)) as url:
        model = {"id": "quick", "type": "text-generation", "provider": "openai", "endpoint": url}
        (directory / "models.yaml").write_text(yaml.safe_dump({"models": [model]}))
        settings = {
            "inference": {"threads": 1, "kv_cache_mib": 32, "embedder": False},
            "router": {"models": [str(directory / "models.yaml")]},
            "recording": recording,
        }
        with ServicesMesh(directory, settings) as mesh:
            yield mesh
    shutil.rmtree(directory)


def figures(mesh):
    """What the gateway's own producer tells, by name."""
    text = httpx.get(f"{mesh.url}/metrics", trust_env=False, timeout=30).text
    return {
        sample.name.removeprefix("moltbot_audit_"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("producer") == "gateway/audit-spill"
    }


def readiness(mesh):
    answer = httpx.get(f"{mesh.url}/readyz", trust_env=False, timeout=30)
    return answer.status_code, answer.json().get("missing", []) + answer.json().get("degraded", [])


def until(condition, timeout_s):
    limit = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < limit, "did not happen in time"
        time.sleep(0.1)
    return found


def handed_over(mesh):
    """Wait until the log has what the gateway has."""
    found = until(lambda: (now := figures(mesh))["behind_seconds"] == now["queued"] == 0 and now, BACK_S)
    assert found["rejected_total"] == 0
    return found


@contextlib.contextmanager
def without_audit(mesh, how):
    audit = mesh.processes["audit"]
    if how == "killed":
        audit.kill()
    else:
        audit.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        if how == "killed":
            audit.start()
        else:
            audit.signal(signal.SIGCONT)


def logged(mesh):
    """How often each request of the load stands in the stopped log; each producer's counters in the log's order."""
    requests, counters = Counter(), defaultdict(list)
    for first, path in segments(mesh.data_dir / "audit" / "log" / "segments"):
        for frame in read(path, first):
            assert isinstance(frame, Frame), frame
            event = audit_pb2.AuditEvent.FromString(frame.payload)
            if event.HasField("producer"):
                counters[event.producer.producer_id, event.producer.epoch].append(event.producer.counter)
            if event.type == audit_pb2.EVENT_TYPE_REQUEST and event.tenant == TENANT:
                requests[event.request_id] += 1
    return requests, counters


def whole(mesh, acknowledged):
    """Check the stopped log: nothing twice, every producer in order, all that is missing declared.

    Returns:
        Answers without a record, and how many records are missing by the producers' counting.
    """
    requests, counters = logged(mesh)
    assert not [one for one, times in requests.items() if times > 1]
    for (producer, epoch), found in counters.items():
        assert found == sorted(found), f"producer {producer.hex()} is out of order in epoch {epoch}"
    report = json.loads(mesh.command("audit", "gaps", "--json").stdout)
    assert (report["undeclared"], report["twice"], report["problems"]) == (0, 0, [])
    assert json.loads(mesh.command("audit", "verify", "--json").stdout)["intact"]
    return [one for one in acknowledged if one.request_id not in requests], report["missing"]


def test_an_outage_under_load_loses_no_record_and_no_answer_waits_for_it():
    with started() as mesh:
        with Load(CLIENTS, mesh.url, mesh.key(TENANT), ["quick"]) as load:
            told = []
            for how in ("killed", "stopped"):
                time.sleep(CALM_S)
                before, calm = figures(mesh), len(load.acknowledged)
                with without_audit(mesh, how):
                    began_s = time.monotonic()
                    time.sleep(OUTAGE_S)
                    during, answered = figures(mesh), len(load.acknowledged) - calm
                    status, says = readiness(mesh)
                    lasted_s = time.monotonic() - began_s
                back_s = time.monotonic()
                assert answered > CLIENTS, f"no answers while the audit service was {how}"
                assert during["behind_seconds"] > OUTAGE_S / 2, during
                assert during["spill_bytes"] > before["spill_bytes"], during
                assert status == 200
                if how == "killed" or OUTAGE_S >= 15:
                    assert any("audit" in one for one in says), says
                until(lambda seen=during: figures(mesh)["acknowledged_total"] >= seen["events_total"], BACK_S)
                told.append(
                    f"{how} for {lasted_s:.0f} s: {answered} answers meanwhile, {during['spill_bytes'] / 1024:.0f} KiB "
                    f"waited, in the log {time.monotonic() - back_s:.1f} s after it was back"
                )
        assert not load.refused, load.refused
        assert load.broken == 0
        assert handed_over(mesh)["dropped_total"] == 0
        assert not any(mesh.stop())
        lost, missing = whole(mesh, load.acknowledged)
        assert not lost
        assert missing == 0
        print("\n" + "\n".join(told))
        print(f"{len(load.acknowledged)} answers, each with its record, once and in order; gap report empty")


@pytest.mark.parametrize("policy", ["block_high_risk", "block_all"])
def test_a_spill_filled_to_its_limit_stops_what_the_policy_says_and_all_that_is_missing_is_declared(policy):
    with started(spill_mib=1, queue_events=64, on_full=policy) as mesh:
        with Load(CLIENTS, mesh.url, mesh.key(TENANT), ["quick"]) as load:
            time.sleep(CALM_S)
            assert not load.refused
            with without_audit(mesh, "killed"):
                until(lambda: figures(mesh)["spill_failing"], FULL_S)
                if policy == "block_all":
                    until(lambda: load.refused[503], BACK_S)
                else:
                    until(lambda: figures(mesh)["dropped_total"] > 100, BACK_S)
                status, says = readiness(mesh)
            until(lambda: not figures(mesh)["spill_failing"], BACK_S)
            answered = len(load.acknowledged)
            until(lambda: len(load.acknowledged) > answered + CLIENTS, BACK_S)
        dropped = handed_over(mesh)["dropped_total"]
        assert not any(mesh.stop())
        lost, missing = whole(mesh, load.acknowledged)
        assert any("spill is full" in one for one in says), says
        assert missing == dropped
        if policy == "block_all":
            assert status == 503
            assert set(load.refused) == {503}
            assert not lost
        else:
            assert status == 200
            assert not load.refused
            assert 0 < len(lost) <= dropped
        print(
            f"\n{policy}: {len(load.acknowledged)} answers, {load.refused[503]} refused, {missing} records missing, "
            f"all declared; {len(lost)} answers without a record"
        )

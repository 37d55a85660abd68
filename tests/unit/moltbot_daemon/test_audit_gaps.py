"""What `audit gaps` says, and how it ends."""

from __future__ import annotations

import json
import time

import pytest
from moltbot.audit.v1 import audit_pb2

from moltbot_audit.checkpoint import Signer
from moltbot_audit.event import decode
from moltbot_audit.ledger import Ledger
from moltbot_daemon.cli import main
from moltbot_mesh.uuid7 import uuid7


@pytest.fixture
def asked(tmp_path, monkeypatch, capsys):
    """Runs the command on a log whose one producer counted what is given."""
    monkeypatch.chdir(tmp_path)

    def ask(*counters, options=()):
        ledger = Ledger(tmp_path / "log", Signer.load(tmp_path / "log.key", "test/log"), decode, 1 << 20)
        for counter in counters:
            event = audit_pb2.AuditEvent(
                event_id=uuid7(),
                time_unix_ns=time.time_ns(),
                type=audit_pb2.EVENT_TYPE_REQUEST,
                outcome=audit_pb2.OUTCOME_SUCCESS,
                subject="key-1",
                action="do",
                service="gateway",
                instance="gateway-1",
                producer=audit_pb2.Producer(producer_id=b"p" * 16, epoch=7, counter=counter),
            )
            ledger.append([decode(event.SerializeToString())])
        ledger.close()
        code = main(["audit", "gaps", str(tmp_path / "log"), *options])
        return code, capsys.readouterr().out

    return ask


def test_nothing_missing_is_said_for_each_epoch(asked):
    code, out = asked(1, 2, 3)
    assert code == 0
    assert f"gateway gateway-1, producer {b'p'.hex() * 16}, epoch 7: counters 1 to 3; missing none" in out
    assert out.endswith("3 records of 1 epochs: none missing\n")


def test_what_nobody_declared_is_listed_and_ends_with_65(asked):
    code, out = asked(1, 4, 6)
    assert code == 65
    assert "missing 2-3, 5; 0 declared, 3 NOT DECLARED" in out
    assert "FOUND: 3 missing, 3 of them declared by nobody" in out


def test_programs_read_it_as_json(asked):
    code, out = asked(1, 3, options=("--json",))
    told = json.loads(out)
    assert code == 65
    assert (told["missing"], told["undeclared"], told["epochs"][0]["missing"]) == (1, 1, [[2, 2]])

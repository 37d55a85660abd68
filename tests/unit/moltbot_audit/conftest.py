from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from moltbot.audit.v1 import audit_pb2

from moltbot_audit.checkpoint import Signer
from moltbot_audit.event import decode
from moltbot_audit.ledger import Ledger
from moltbot_mesh.uuid7 import uuid7

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from moltbot_audit.records import Record

_times = itertools.count(1_700_000_000_000_000_000, 1_000)


def make_event(**fields) -> audit_pb2.AuditEvent:
    given = {
        "event_id": uuid7(),
        "time_unix_ns": next(_times),
        "type": audit_pb2.EVENT_TYPE_REQUEST,
        "outcome": audit_pb2.OUTCOME_SUCCESS,
        "tenant": "acme",
        "subject": "key-1",
        "action": "POST /v1/chat/completions",
    }
    return audit_pb2.AuditEvent(**(given | fields))


def make_record(**fields) -> Record:
    return decode(make_event(**fields).SerializeToString(deterministic=True))


@pytest.fixture
def record() -> Callable[..., Record]:
    return make_record


@pytest.fixture
def event() -> Callable[..., audit_pb2.AuditEvent]:
    return make_event


@pytest.fixture
def directory(tmp_path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def open_ledger(tmp_path, directory) -> Iterator[Callable[..., Ledger]]:
    opened: list[Ledger] = []

    def make(segment_bytes: int = 1 << 16, checkpoint_interval_s: float = 0.02) -> Ledger:
        signer = Signer.load(tmp_path / "log.key", "test/log")
        ledger = Ledger(directory, signer, decode, segment_bytes, checkpoint_interval_s)
        opened.append(ledger)
        closing = ledger.close
        ledger.close = lambda: (opened.remove(ledger), closing())
        return ledger

    yield make
    while opened:
        opened[-1].close()

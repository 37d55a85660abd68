"""What the audit service does by itself goes on after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time

import pytest
from moltbot.audit.v1 import audit_pb2 as pb

from moltbot_audit import module
from moltbot_audit.background import Background
from moltbot_mesh.errors import InvalidArgument, Unavailable
from moltbot_mesh.uuid7 import uuid7


class Ledger:
    """Fails as it is told, then takes everything."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.records: list[bytes] = []
        self.expiries = 0

    def append(self, records):
        if self.failures:
            raise self.failures.pop(0)
        self.records.extend(record.payload for record in records)

    def expire(self, _before_ns, _held):
        self.expiries += 1
        if self.failures:
            raise self.failures.pop(0)
        return 0


class NoBodies:
    held = ()

    def expire(self, _before_ns):
        return 0


@contextlib.asynccontextmanager
async def running(work):
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition) -> None:
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    monkeypatch.setattr(module, "_DAY_S", 0.01)


@pytest.mark.parametrize(
    "failure", [sqlite3.OperationalError("database is locked"), OSError(5, "I/O"), Unavailable("x")]
)
async def test_expiry_is_tried_again_after_any_failure_of_the_disk(failure):
    ledger = Ledger(failure)
    async with running(module._expire_daily(ledger, NoBodies(), None, 400)):
        await until(lambda: ledger.expiries >= 3)


def event(directory, name: str) -> bytes:
    payload = pb.AuditEvent(
        event_id=uuid7(),
        time_unix_ns=time.time_ns(),
        type=pb.EVENT_TYPE_ADMINISTRATION,
        outcome=pb.OUTCOME_SUCCESS,
        subject="root",
        action="keys create",
    ).SerializeToString()
    (directory / name).write_bytes(payload)
    return payload


async def test_an_act_that_is_no_event_is_set_aside_and_the_next_is_logged(tmp_path):
    (tmp_path / "1.event").write_bytes(b"torn")
    good = event(tmp_path, "2.event")
    ledger = Ledger()
    async with running(module._take_administration(ledger, tmp_path)):
        await until(lambda: ledger.records == [good])
    assert [path.name for path in tmp_path.iterdir()] == ["1.event.refused"]


async def test_acts_wait_in_their_order_while_the_log_is_down(tmp_path):
    acts = [event(tmp_path, f"{n}.event") for n in range(3)]
    ledger = Ledger(Unavailable("down"), Unavailable("down"))
    async with running(module._take_administration(ledger, tmp_path)):
        await until(lambda: len(ledger.records) == 3)
    assert ledger.records == acts


class Runtime:
    module = "audit"
    instance = "audit-1"

    def __init__(self, directory, **settings):
        self.data_dir = directory
        self.shared_dir = directory / "shared"
        self._settings = {"segment_bytes": 1 << 20, "checkpoint_interval_s": 0.05} | settings

    def settings(self, section):
        return section(**self._settings)


async def test_work_that_ends_with_an_error_is_told_and_work_that_is_done_is_not():
    async def failing():
        raise ZeroDivisionError("a defect")

    async with Background() as background:
        background.start("done", asyncio.sleep(0))
        background.start("failing", failing())
        background.start("going", asyncio.sleep(60))
        await until(lambda: background.ended)
        (told,) = background.ended
        assert "`failing`" in told
        assert "a defect" in told
    assert len(background.ended) == 1


async def test_the_service_is_not_ready_once_work_has_ended_with_an_error(tmp_path, monkeypatch):
    failing = asyncio.Event()

    async def digest(*_args):
        await failing.wait()
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(module, "_digest_sealed", digest)
    async with module.MODULE.open(Runtime(tmp_path)) as service:
        assert service.missing() == []
        failing.set()
        await until(service.missing)
        assert "`digest`" in service.missing()[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"time_stamp_url": "https://tsa.example"},
        {"time_stamp_url": "https://tsa.example", "time_stamp_ca_file": "missing.pem"},
        {"witnesses": {"https://w.example": "no key"}},
    ],
)
async def test_a_wrong_setting_refuses_the_start_and_lets_the_log_go(tmp_path, wrong):
    with pytest.raises(InvalidArgument, match=r"time_stamp_ca_file|missing\.pem|w\.example"):
        async with module.MODULE.open(Runtime(tmp_path, **wrong)):
            pass
    async with module.MODULE.open(Runtime(tmp_path)) as service:
        assert service.missing() == []

"""What the audit service does by itself goes on after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from moltbot.audit.v1 import audit_pb2 as pb
from moltbot.audit.v1 import privacy_pb2

from moltbot_audit import module
from moltbot_audit.background import Background
from moltbot_audit.holds import Holds
from moltbot_audit.key_wrapping import MasterKey
from moltbot_audit.privacy import Privacy
from moltbot_audit.vault import Vault
from moltbot_mesh.audit.sealing import Opener
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

    def expiring(self, _before_ns, _held):
        self.expiries += 1
        if self.failures:
            raise self.failures.pop(0)
        return 0


class NoBodies:
    held = ()
    expiries = 0

    def expire(self, _before_ns):
        self.expiries += 1
        return 0


class Journal:
    """Keeps what it is told, and does something at each."""

    def __init__(self, meanwhile=lambda: None):
        self.told = []
        self._meanwhile = meanwhile

    async def act(self, action, target, facts):
        self.told.append((action, target, dict(facts)))
        await asyncio.to_thread(self._meanwhile)


@contextlib.asynccontextmanager
async def running(work):
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition) -> None:
    async with asyncio.timeout(20):
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


async def test_bodies_expire_although_segments_cannot():
    ledger, bodies = Ledger(*[OSError(5, "I/O")] * 1000), NoBodies()
    async with running(module._expire_daily(ledger, bodies, None, 400)):
        await until(lambda: bodies.expiries >= 2)


@pytest.fixture
def old_log(open_ledger, record):
    """A log whose oldest segments may go by a time that is still to come."""
    log = open_ledger(segment_bytes=1 << 14)
    for _ in range(20):
        log.append([record() for _ in range(50)])
    limit = time.monotonic() + 10
    while log.checkpoint()[1].size < 1000:
        assert time.monotonic() < limit
        time.sleep(0.01)
    return log


@pytest.fixture
def privacy(tmp_path):
    vault = Vault(tmp_path / "vault.sqlite", MasterKey(bytes(32)))
    made = Privacy(vault, Holds(tmp_path / "holds.sqlite"), Opener(X25519PrivateKey.generate()), (), bytes(32))
    yield made
    made.close()


async def test_what_is_to_go_is_in_the_journal_before_it_goes_and_what_went_after(old_log, privacy):
    stood = []
    journal = Journal(lambda: stood.append(old_log.oldest))
    before_ns = time.time_ns() + 10**9
    await module._expire_segments(old_log, privacy, journal, before_ns)
    gone = old_log.oldest
    assert gone > 0
    assert stood == [0, gone]
    assert journal.told == [
        ("expire", "segments", {"before_ns": str(before_ns), "records": str(gone)}),
        ("expired", "segments", {"records": str(gone)}),
    ]
    await module._expire_segments(old_log, privacy, journal, 0)
    assert len(journal.told) == 2


async def test_a_hold_that_is_placed_after_the_intent_keeps_what_it_names(old_log, privacy):
    def place():
        if not privacy.held:
            privacy.place_hold(privacy_pb2.Hold(tenant="acme", reason="inquiry 7"), "auditor")

    journal = Journal(place)
    await module._expire_segments(old_log, privacy, journal, time.time_ns() + 10**9)
    assert old_log.oldest == 0
    assert journal.told[-1] == ("expired", "segments", {"records": "0"})


async def test_no_hold_is_acknowledged_while_segments_go(old_log, privacy, monkeypatch):
    hold = privacy_pb2.Hold(tenant="acme", reason="inquiry 7")
    expire, order = old_log.expire, []

    def place():
        privacy.place_hold(hold, "auditor")
        order.append("hold")

    placing = threading.Thread(target=place)

    def slow(*given):
        placing.start()
        placing.join(0.2)
        order.append("expire")
        return expire(*given)

    monkeypatch.setattr(old_log, "expire", slow)
    await module._expire_segments(old_log, privacy, Journal(), time.time_ns() + 10**9)
    await asyncio.to_thread(placing.join, 5)
    assert order == ["expire", "hold"]


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


async def test_an_act_that_cannot_even_be_set_aside_holds_nothing_up(tmp_path):
    (tmp_path / "1.event").write_bytes(b"torn")
    taken = tmp_path / "1.event.refused"
    taken.mkdir()
    (taken / "x").touch()
    good = event(tmp_path, "2.event")
    ledger = Ledger()
    async with running(module._take_administration(ledger, tmp_path)) as task:
        await until(lambda: ledger.records == [good])
        assert not task.done()


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

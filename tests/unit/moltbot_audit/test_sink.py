"""A copy of the log misses no record, goes on where it was, and never holds up or outlives the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import pytest

from moltbot_audit import sink
from moltbot_audit.settings import ClickHouseSettings
from moltbot_audit.sink import Forwarder
from moltbot_mesh.errors import Unavailable


class Memory:
    """A sink that keeps records by sequence, and fails as it is told: before it has taken a batch, or after."""

    def __init__(self, target: str = "memory") -> None:
        self.target = target
        self.records: dict[int, bytes] = {}
        self.batches: list[tuple[int, int]] = []
        self.forgotten: list[int] = []
        self.before: list[Exception] = []
        self.after: list[Exception] = []

    async def write(self, batch):
        if self.before:
            raise self.before.pop(0)
        for logged in batch:
            assert self.records.setdefault(logged.sequence, logged.payload) == logged.payload
        self.batches.append((batch[0].sequence, batch[-1].sequence))
        if self.after:
            raise self.after.pop(0)

    async def forget(self, before):
        self.forgotten.append(before)
        self.records = {n: payload for n, payload in self.records.items() if n >= before}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(sink, "backoff_s", lambda *_, **__: 0.01)
    monkeypatch.setattr(sink, "_OLDEST_EVERY_S", 0.02)


@pytest.fixture
def forwarder(tmp_path):
    def make(ledger, to, batch_records=100):
        return Forwarder(ledger, to, tmp_path / "position", batch_records=batch_records, interval_s=0.01)

    return make


@contextlib.asynccontextmanager
async def running(forwarder):
    task = asyncio.create_task(forwarder.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def expected(ledger, first=0):
    return {n: ledger.at(n).payload for n in range(first, ledger.size)}


async def test_every_record_is_copied_in_bounded_batches_also_those_that_come_later(open_ledger, record, forwarder):
    ledger, to = open_ledger(), Memory()
    ledger.append([record() for _ in range(250)])
    one = forwarder(ledger, to)
    assert one.lag_records == 250
    async with running(one):
        await until(lambda: len(to.records) == 250)
        ledger.append([record() for _ in range(30)])
        await until(lambda: len(to.records) == 280)
        await until(lambda: one.lag_records == 0)
    assert to.records == expected(ledger)
    assert all(last - first < 100 for first, last in to.batches)


async def test_a_restart_goes_on_where_it_was(open_ledger, record, forwarder):
    ledger, to = open_ledger(), Memory()
    ledger.append([record() for _ in range(120)])
    async with running(one := forwarder(ledger, to)):
        await until(lambda: one.lag_records == 0)
    to.batches.clear()
    ledger.append([record() for _ in range(10)])
    async with running(one := forwarder(ledger, to)):
        await until(lambda: one.lag_records == 0)
    assert to.batches[0][0] == 120
    assert to.records == expected(ledger)


async def test_a_batch_whose_acknowledgement_was_lost_comes_again_with_the_same_sequences(
    open_ledger, record, forwarder
):
    ledger, to = open_ledger(), Memory()
    ledger.append([record() for _ in range(100)])
    to.after = [Unavailable("reset"), Unavailable("reset")]
    async with running(one := forwarder(ledger, to)):
        await until(lambda: one.lag_records == 0)
    assert to.batches == [(0, 99)] * 3


async def test_a_sink_that_fails_is_tried_again_until_it_takes_what_it_has_missed(open_ledger, record, forwarder):
    ledger, to = open_ledger(), Memory()
    to.before = [Unavailable("down")] * 5
    async with running(one := forwarder(ledger, to)):
        ledger.append([record() for _ in range(50)])
        await until(lambda: one.problem == "down")
        await until(lambda: one.lag_records == 0)
        await until(lambda: not one.problem)
    assert to.records == expected(ledger)


async def test_only_what_a_signed_checkpoint_covers_is_copied(open_ledger, record, forwarder):
    ledger, to = open_ledger(checkpoint_interval_s=60), Memory()
    ledger.append([record() for _ in range(10)])
    async with running(forwarder(ledger, to)):
        await asyncio.sleep(0.1)
    assert to.records == {}


@pytest.mark.parametrize("position", [b"torn", b"[]", b'{"target": "memory"}', b'{"target": "other", "following": 50}'])
async def test_a_position_that_is_damaged_or_of_another_sink_copies_all_again(
    open_ledger, record, forwarder, tmp_path, position
):
    (tmp_path / "position").write_bytes(position)
    ledger, to = open_ledger(), Memory()
    ledger.append([record() for _ in range(60)])
    async with running(one := forwarder(ledger, to)):
        await until(lambda: one.lag_records == 0)
    assert to.records == expected(ledger)
    assert json.loads((tmp_path / "position").read_bytes())["following"] == 60
    assert (tmp_path / "position").stat().st_mode & 0o777 == 0o600


async def test_what_expires_is_removed_from_the_copy_and_what_expired_before_is_left_out(
    open_ledger, record, forwarder
):
    ledger, to = open_ledger(segment_bytes=1 << 14), Memory()
    for _ in range(20):
        ledger.append([record() for _ in range(50)])
    while ledger.checkpoint()[1].size < 1000:
        await asyncio.sleep(0.005)
    async with running(one := forwarder(ledger, to)):
        await until(lambda: one.lag_records == 0)
        removed = ledger.expire(time.time_ns() + 10**9)
        assert removed
        await until(lambda: removed in to.forgotten)
    assert to.records == expected(ledger, removed)
    late = Memory("late")
    async with running(one := forwarder(ledger, late)):
        await until(lambda: one.lag_records == 0)
    assert late.records == expected(ledger, removed)


async def test_a_copy_that_has_more_than_the_log_is_told_and_left_alone(open_ledger, record, forwarder, tmp_path):
    (tmp_path / "position").write_text('{"target": "memory", "following": 50, "forgotten": 0}')
    ledger, to = open_ledger(), Memory()
    ledger.append([record() for _ in range(20)])
    async with running(one := forwarder(ledger, to)):
        await until(lambda: "restored" in one.problem)
    assert to.batches == []


async def test_large_records_make_smaller_batches(open_ledger, record, forwarder, monkeypatch):
    monkeypatch.setattr(sink, "_MOST_BYTES", 2000)
    ledger, to = open_ledger(), Memory()
    ledger.append([record(object="x" * 500, attributes={"a": "y" * 900}) for _ in range(9)])
    async with running(one := forwarder(ledger, to)):
        await until(lambda: one.lag_records == 0)
    assert to.records == expected(ledger)
    assert max(last - first for first, last in to.batches) <= 1


@pytest.mark.parametrize(
    "url",
    [
        "http://clickhouse.example:8123", "http://10.0.0.1:8123", "ftp://localhost", "https://", "clickhouse:8443",
        "https://user:password@clickhouse.example", "https://clickhouse.example/?password=x",
    ],
)  # fmt: skip
def test_a_url_that_would_show_records_or_passwords_is_refused(url):
    with pytest.raises(ValueError, match="url"):
        ClickHouseSettings(url=url)


def test_a_table_is_a_plain_name():
    for url in ("", "http://127.0.0.1:8123", "http://[::1]:8123/", "https://clickhouse.example:8443"):
        assert ClickHouseSettings(url=url).url == url
    for name in ("a.b", "a;b", "", "1a", "a b", "`a`"):
        with pytest.raises(ValueError, match="table"):
            ClickHouseSettings(table=name)

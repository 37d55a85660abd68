from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from contextlib import asynccontextmanager

import grpc
import pytest
from moltbot.audit.v1 import audit_pb2, audit_pb2_grpc

from moltbot_mesh.audit.frames import Frame, read
from moltbot_mesh.audit.producer import AuditProducer
from moltbot_mesh.channel import MeshChannel, as_channel, open_channel
from moltbot_mesh.errors import AlreadyExists, InvalidArgument, Unavailable
from moltbot_mesh.identity import MeshIdentity


class Log:
    """An audit service that may be down, and that refuses some actions."""

    def __init__(self):
        self.events = []
        self.streams = 0
        self.down = False
        self.fail_after = None
        self.acknowledge = True

    @property
    def AppendStream(self):  # noqa: N802
        return lambda requests: _Call(self._answers(requests))

    async def _answers(self, requests):
        self.streams += 1
        if self.down:
            raise Unavailable("down")
        async for request in requests:
            events = [audit_pb2.AuditEvent.FromString(event) for event in request.events]
            bad = [event for event in events if event.action == "bad"]
            if bad:
                raise InvalidArgument("bad") if bad[0].object == "invalid" else AlreadyExists("bad")
            known = {event.event_id for event in self.events}
            self.events += [event for event in events if event.event_id not in known]
            if self.fail_after is not None and len(self.events) >= self.fail_after:
                self.fail_after = None
                raise Unavailable("cut after it was written")
            if self.acknowledge:
                yield audit_pb2.AppendStreamResponse(batch_id=request.batch_id, sequences=range(len(events)))

    def counters(self):
        return [event.producer.counter for event in self.events]


class _Call:
    def __init__(self, answers):
        self._answers = answers

    def __aiter__(self):
        return self._answers

    def cancel(self):
        return True


def event(action="do", **fields):
    given = {
        "type": audit_pb2.EVENT_TYPE_REQUEST,
        "outcome": audit_pb2.OUTCOME_SUCCESS,
        "subject": "key-1",
        "action": action,
    }
    return audit_pb2.AuditEvent(**(given | fields))


def producer_of(log, tmp_path, **options):
    return AuditProducer(log, tmp_path / "spill", "gateway", "gateway-1", **({"drain_s": 2.0} | options))


async def flood(producer):
    async with asyncio.timeout(20):
        while not producer.problem:
            if not producer.stats.queued:  # nothing is dropped before the spill is full
                producer.emit(event())
            await asyncio.sleep(0.001)
    for _ in range(30):
        producer.emit(event())


async def fill(producer):
    for _ in range(20):
        await producer.emit_durable(event("administer"))


async def until(condition, timeout_s=5.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture
def log():
    return Log()


async def test_what_is_emitted_reaches_the_log_in_order_and_numbered(log, tmp_path):
    producer = producer_of(log, tmp_path)
    async with producer.running():
        ids = [producer.emit(event()) for _ in range(1500)]
    assert [str(uuid.UUID(bytes=found.event_id)) for found in log.events] == ids
    assert log.counters() == list(range(1, 1501))
    told = {(found.service, found.instance, found.producer.epoch) for found in log.events}
    assert told == {("gateway", "gateway-1", 1)}
    assert all(found.time_unix_ns for found in log.events)
    assert producer.stats.acknowledged == producer.stats.emitted == 1500
    assert not list((tmp_path / "spill").glob("*.spill"))


async def test_an_outage_loses_nothing_and_keeps_the_order(log, tmp_path):
    log.down = True
    producer = producer_of(log, tmp_path)
    async with producer.running():
        for _ in range(700):
            producer.emit(event())
        await until(lambda: producer.stats.queued == 0 and log.streams > 0)
        assert log.events == []
        assert producer.stats.spill_bytes > 0
        log.down = False
        await until(lambda: len(log.events) == 700)
    assert log.counters() == list(range(1, 701))


async def test_a_stream_cut_before_its_acknowledgement_makes_no_duplicate_and_no_gap(log, tmp_path):
    log.fail_after = 300
    producer = producer_of(log, tmp_path)
    async with producer.running():
        for _ in range(1000):
            producer.emit(event())
            await asyncio.sleep(0)
        await until(lambda: len(log.events) == 1000)
    assert log.counters() == list(range(1, 1001))
    assert log.streams >= 2


async def test_what_a_stopped_process_left_is_sent_by_the_next(log, tmp_path):
    log.down = True
    producer = producer_of(log, tmp_path, drain_s=0.05)
    async with producer.running():
        for _ in range(20):
            producer.emit(event())
    log.down = False
    second = producer_of(log, tmp_path)
    async with second.running():
        second.emit(event())
    assert [(found.producer.epoch, found.producer.counter) for found in log.events] == [
        *((1, n) for n in range(1, 21)),
        (2, 1),
    ]


async def test_a_durable_event_is_on_disk_when_it_returns(log, tmp_path):
    log.down = True
    producer = producer_of(log, tmp_path, drain_s=0.05)
    async with producer.running():
        producer.emit(event("before"))
        event_id = await producer.emit_durable(event("administer"))
        found = [
            audit_pb2.AuditEvent.FromString(item.payload)
            for path in (tmp_path / "spill").glob("*.spill")
            for item in read(path.read_bytes(), 0, int(path.stem))
            if isinstance(item, Frame)
        ]
        assert [one.action for one in found] == ["before", "administer"]
        assert str(uuid.UUID(bytes=found[1].event_id)) == event_id


async def test_a_full_spill_refuses_durable_events_and_drops_others_counted_with_a_gap_record(log, tmp_path):
    log.down = True
    producer = producer_of(log, tmp_path, queue_events=10, spill_bytes=3000)
    async with producer.running():
        await flood(producer)
        await until(lambda: producer.problem)
        with pytest.raises(Unavailable, match="cannot be recorded"):
            await fill(producer)
        dropped = producer.stats.dropped
        assert dropped > 0
        log.down = False
        await until(lambda: any(found.type == audit_pb2.EVENT_TYPE_GAP for found in log.events))
        gap = next(found for found in log.events if found.type == audit_pb2.EVENT_TYPE_GAP)
        assert gap.attributes["dropped"] == str(dropped)
        await until(lambda: not producer.problem)
        await producer.emit_durable(event("administer"))
    counters = log.counters()
    missing = set(range(1, max(counters) + 1)) - set(counters)
    assert len(missing) == dropped
    assert all(int(gap.attributes["first_counter"]) <= n <= int(gap.attributes["last_counter"]) for n in missing)


async def test_what_waited_in_memory_for_a_full_spill_when_its_process_ended_is_declared_by_the_next(log, tmp_path):
    log.down = True
    producer = producer_of(log, tmp_path, queue_events=10, spill_bytes=3000, drain_s=0.05)
    async with producer.running():
        await flood(producer)
        await until(lambda: producer.problem)
    log.down = False
    second = producer_of(log, tmp_path)
    async with second.running():
        await until(lambda: any(found.type == audit_pb2.EVENT_TYPE_GAP for found in log.events))
        first = int(next(f for f in log.events if f.type == audit_pb2.EVENT_TYPE_GAP).attributes["first_counter"])
        await until(lambda: not (tmp_path / "spill" / "unspilled").exists())
    gap = next(found for found in log.events if found.type == audit_pb2.EVENT_TYPE_GAP)
    kept = [found.producer.counter for found in log.events if found.producer.epoch == 1]
    assert kept == list(range(1, first))
    assert (gap.producer.epoch, gap.attributes["epoch"], gap.attributes["dropped"]) == (2, "1", "unknown")
    third = producer_of(log, tmp_path)
    async with third.running():
        third.emit(event())
    assert sum(found.type == audit_pb2.EVENT_TYPE_GAP for found in log.events) == 1


async def test_room_is_kept_for_durable_events_when_ordinary_ones_wait(log, tmp_path):
    log.down = True
    producer = producer_of(log, tmp_path, queue_events=10, spill_bytes=6000, drain_s=0.05)
    async with producer.running():
        await flood(producer)
        await until(lambda: producer.problem)
        await producer.emit_durable(event("administer"))


async def test_the_strict_policy_refuses_ordinary_events_too(log, tmp_path):
    log.down = True
    producer = producer_of(log, tmp_path, queue_events=5, spill_bytes=1000, on_full="block_all", drain_s=0.05)
    async with producer.running():
        producer.admit()
        with pytest.raises(Unavailable):
            await flood(producer)
        with pytest.raises(Unavailable):
            producer.admit()


async def test_of_events_that_are_recorded_together_each_is_kept_or_counted_as_dropped(log, tmp_path):
    log.down = True
    producer = producer_of(log, tmp_path, queue_events=4, spill_bytes=1000, on_full="block_all")
    async with producer.running():
        sent = 0
        with contextlib.suppress(Unavailable):
            while sent < 300:
                sent += 3
                producer.emit_now([event() for _ in range(3)])
        stats = producer.stats
        assert stats.emitted == sent
        assert 0 < stats.dropped < sent
        log.down = False
        await until(lambda: not producer.problem and producer.stats.queued == 0)
    counters = log.counters()
    missing = set(range(1, max(counters) + 1)) - set(counters)
    assert len(missing) == producer.stats.dropped
    assert sum(int(f.attributes["dropped"]) for f in log.events if f.type == audit_pb2.EVENT_TYPE_GAP) == len(missing)


@pytest.mark.parametrize("kind", ["invalid", "exists"])
async def test_an_event_that_the_log_refuses_is_kept_aside_and_holds_up_no_other(log, tmp_path, kind):
    producer = producer_of(log, tmp_path)
    async with producer.running():
        for n in range(200):
            producer.emit(event("bad", object=kind) if n in (3, 150) else event())
        await until(lambda: len(log.events) == 200)
    assert producer.stats.rejected == 2
    gaps = [found for found in log.events if found.type == audit_pb2.EVENT_TYPE_GAP]
    assert [(gap.attributes["first_counter"], gap.attributes["dropped"]) for gap in gaps] == [("4", "1"), ("151", "1")]
    assert {gap.attributes["epoch"] for gap in gaps} == {"1"}
    kept = [audit_pb2.AuditEvent.FromString(path.read_bytes()) for path in (tmp_path / "spill/rejected").iterdir()]
    assert sorted(found.producer.counter for found in kept) == [4, 151]


@pytest.mark.parametrize("field", ["type", "outcome", "subject", "action"])
async def test_an_event_without_a_field_that_all_must_have_is_refused_at_once(log, tmp_path, field):
    producer = producer_of(log, tmp_path)
    incomplete = event()
    incomplete.ClearField(field)
    with pytest.raises(InvalidArgument):
        producer.emit(incomplete)
    with pytest.raises(InvalidArgument):
        producer.emit(event(object="x" * 70_000))


async def test_a_closed_producer_says_so(log, tmp_path):
    producer = producer_of(log, tmp_path)
    async with producer.running():
        pass
    with pytest.raises(Unavailable, match="closed"):
        producer.emit(event())
    with pytest.raises(Unavailable, match="closed"):
        await producer.emit_durable(event())


async def test_events_may_be_emitted_from_other_threads_and_before_it_runs(log, tmp_path):
    producer = producer_of(log, tmp_path)
    producer.emit(event("early"))
    async with producer.running():
        threads = [threading.Thread(target=lambda: [producer.emit(event()) for _ in range(100)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        await until(lambda: len(log.events) == 401)
        for thread in threads:
            thread.join()
    assert sorted(log.counters()) == list(range(1, 402))


async def test_a_service_that_never_acknowledges_does_not_hold_up_closing(log, tmp_path):
    log.acknowledge = False
    producer = producer_of(log, tmp_path, drain_s=0.1)
    started_s = time.monotonic()
    async with producer.running():
        producer.emit(event())
    assert time.monotonic() - started_s < 2


@asynccontextmanager
async def served(servicer, path):
    server = grpc.aio.server()
    audit_pb2_grpc.add_AuditServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@pytest.mark.parametrize("channel_kind", ["mesh", "plain"])
async def test_it_works_over_a_real_channel_whose_server_comes_late(tmp_path, channel_kind):
    class Servicer(audit_pb2_grpc.AuditServiceServicer):
        got = 0

        async def AppendStream(self, request_iterator, context):  # noqa: N802
            async for request in request_iterator:
                self.got += len(request.events)
                yield audit_pb2.AppendStreamResponse(batch_id=request.batch_id, sequences=[0] * len(request.events))

    path = tmp_path / "s"
    channel = open_channel(f"unix:{path}")
    if channel_kind == "mesh":
        channel = as_channel(MeshChannel(channel, MeshIdentity(b"k" * 32, "gateway"), "audit"))
    producer = producer_of(audit_pb2_grpc.AuditServiceStub(channel), tmp_path)
    servicer = Servicer()
    async with producer.running():
        for _ in range(100):
            producer.emit(event())
        await asyncio.sleep(0.05)
        async with served(servicer, path):
            await until(lambda: producer.stats.acknowledged == 100, 20)
    assert servicer.got == 100
    await channel.close()

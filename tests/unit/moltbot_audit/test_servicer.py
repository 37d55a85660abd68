from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from moltbot.audit.v1 import audit_pb2 as pb
from moltbot.audit.v1 import audit_pb2_grpc

from moltbot_audit import merkle
from moltbot_audit.checkpoint import verify
from moltbot_audit.module import MODULE
from moltbot_audit.servicer import _only_own
from moltbot_audit.settings import AuditSettings
from moltbot_mesh.audit.producer import AuditProducer
from moltbot_mesh.call import Call, Principal, enter_call, leave_call
from moltbot_mesh.channel import MeshChannel, as_channel
from moltbot_mesh.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
)
from moltbot_mesh.identity import MeshIdentity
from moltbot_mesh.inprocess import InProcessChannel
from moltbot_mesh.interceptors import Surroundings, wrapped_handlers
from moltbot_mesh.telemetry import Metrics, Telemetry, TelemetrySettings

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"k" * 32


@dataclass
class Runtime:
    data_dir: Path
    module: str = "audit"
    instance: str = "audit-1"

    @property
    def shared_dir(self):
        return self.data_dir / "shared"

    def settings(self, section):
        return section(segment_bytes=1 << 20, checkpoint_interval_s=0.05)


@asynccontextmanager
async def audit(data_dir, caller="gateway"):
    """The opened module behind the in-process channel, with all interceptors; its stub and the opened service."""
    data_dir.mkdir(exist_ok=True)
    telemetry = Telemetry("audit", Metrics(), TelemetrySettings(), "audit-1")
    async with MODULE.open(Runtime(data_dir)) as service:
        handlers = {}
        for registration in service.registrations:
            handlers |= wrapped_handlers(registration, Surroundings(telemetry, MeshIdentity(KEY, "audit"), None))
        channel = as_channel(MeshChannel(InProcessChannel(handlers), MeshIdentity(KEY, caller), "audit"))
        yield audit_pb2_grpc.AuditServiceStub(channel), service


@pytest.fixture
async def stub(tmp_path):
    async with audit(tmp_path) as (found, _):
        yield found


async def append(stub, *batches):
    async def requests():
        for batch_id, events in enumerate(batches):
            yield pb.AppendStreamRequest(batch_id=batch_id, events=[e.SerializeToString() for e in events])

    return [(r.batch_id, list(r.sequences)) async for r in stub.AppendStream(requests())]


@asynccontextmanager
async def as_key_of(tenant, roles=()):
    """As one whose request the calling service serves."""
    call = Call("/m", Principal("key", "key-1", tenant, frozenset(roles)))
    enter_call(call)
    yield
    leave_call(None)


async def proof_of(stub, event_id):
    async with asyncio.timeout(5):
        while True:
            try:
                return await stub.GetInclusionProof(pb.GetInclusionProofRequest(event_id=event_id))
            except FailedPrecondition:
                await asyncio.sleep(0.02)


def text(event):
    return str(uuid.UUID(bytes=event.event_id))


async def test_batches_are_acknowledged_in_order_with_their_sequences(stub, event):
    first, second = [event(), event()], [event()]
    assert await append(stub, first, second, first) == [(0, [0, 1]), (1, [2]), (2, [0, 1])]


async def test_an_invalid_event_refuses_its_batch_and_names_what_it_lacks(stub, event):
    with pytest.raises(InvalidArgument, match="subject"):
        await append(stub, [event(), event(subject="")])
    with pytest.raises(InvalidArgument, match="at least one"):
        await append(stub, [])
    assert await append(stub, [event()]) == [(0, [0])]


async def test_the_same_id_with_another_body_is_a_conflict(stub, event):
    one = event()
    await append(stub, [one])
    one.tenant = "other"
    with pytest.raises(AlreadyExists):
        await append(stub, [one])


async def test_an_event_is_found_by_id_and_by_sequence_and_carries_its_record(stub, event):
    events = [event(), event(trace_id=b"t" * 16)]
    await append(stub, events)
    for name in (text(events[1]), "1"):
        found = (await stub.GetEvent(pb.GetEventRequest(event_id=name))).event
        assert (found.sequence, found.event) == (1, events[1])
        assert found.record == events[1].SerializeToString()
    with pytest.raises(NotFound):
        await stub.GetEvent(pb.GetEventRequest(event_id=str(uuid.uuid4())))
    with pytest.raises(InvalidArgument):
        await stub.GetEvent(pb.GetEventRequest(event_id="no such id"))


async def test_a_trace_comes_whole_and_in_order_of_time(stub, event):
    events = [event(trace_id=b"t" * 16, time_unix_ns=time_ns) for time_ns in (30, 10, 20)]
    await append(stub, events, [event()])
    found = await stub.GetTrace(pb.GetTraceRequest(trace_id=(b"t" * 16).hex()))
    assert [one.event.time_unix_ns for one in found.events] == [10, 20, 30]


async def test_a_query_filters_and_pages_newest_first(stub, event):
    await append(stub, [event(tenant="a" if n % 2 else "b", model=f"m{n % 3}") for n in range(30)])
    request = pb.QueryRequest(tenant="a", page_size=4)
    found = []
    while True:
        page = await stub.Query(request)
        found += [one.sequence for one in page.events]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == list(range(29, 0, -2))
    both = await stub.Query(pb.QueryRequest(tenant="a", model="m1"))
    assert [one.sequence for one in both.events] == [25, 19, 13, 7, 1]


async def test_a_query_filters_by_what_was_done_to_what_where_and_how_it_was_answered(stub, event):
    trace = bytes(range(16))
    await append(stub, [
        event(object="calculator", action="call", type=pb.EVENT_TYPE_TOOL_CALL, service="tool", trace_id=trace),
        event(reason="QUOTA_EXCEEDED", outcome=pb.OUTCOME_REFUSED, http_status=429),
        event(http_status=404),
        event(http_status=200),
    ])  # fmt: skip

    async def found(**wanted):
        return [one.sequence for one in (await stub.Query(pb.QueryRequest(**wanted))).events]

    assert await found(object="calculator") == [0]
    assert await found(action="call", service="tool") == [0]
    assert await found(trace_id=trace.hex().upper()) == [0]
    assert await found(reason="QUOTA_EXCEEDED") == [1]
    assert await found(http_status_class=4) == [2, 1]
    assert await found(http_status_class=4, reason="QUOTA_EXCEEDED", service="tool") == []
    with pytest.raises(InvalidArgument, match="trace_id"):
        await found(trace_id="abc")


async def test_every_read_is_recorded_also_a_refused_one(stub, event):
    one = event()
    await append(stub, [one])
    await stub.GetEvent(pb.GetEventRequest(event_id=text(one)))
    with pytest.raises(NotFound):
        await stub.GetTrace(pb.GetTraceRequest(trace_id="00" * 15 + "01"))
    reads = (await stub.Query(pb.QueryRequest(type=pb.EVENT_TYPE_AUDIT_READ))).events
    told = [(r.event.action.rpartition("/")[2], r.event.object, r.event.outcome, r.event.reason) for r in reads]
    assert told == [
        ("GetTrace", "00" * 15 + "01", pb.OUTCOME_REFUSED, "NOT_FOUND"),
        ("GetEvent", text(one), pb.OUTCOME_SUCCESS, ""),
    ]
    assert {r.event.subject for r in reads} == {"gateway"}


async def test_an_event_is_proven_from_the_answer_alone(stub, event):
    events = [event() for _ in range(20)]
    await append(stub, events)
    proof = await proof_of(stub, text(events[7]))
    key = (await stub.GetCheckpoint(pb.GetCheckpointRequest())).verifier_key
    head = verify(proof.checkpoint, key)
    assert (proof.sequence, proof.tree_size, proof.record) == (7, head.size, events[7].SerializeToString())
    assert merkle.verify_inclusion(merkle.leaf_hash(proof.record), 7, head.size, proof.hashes, head.root)


async def test_the_log_is_proven_to_have_only_grown(stub, event):
    events = [event() for _ in range(20)]
    await append(stub, events[:5])
    await proof_of(stub, text(events[4]))
    before = await stub.GetCheckpoint(pb.GetCheckpointRequest())
    await append(stub, events[5:])
    await proof_of(stub, text(events[19]))
    found = await stub.GetConsistencyProof(pb.GetConsistencyProofRequest(first=before.tree_size))
    while True:
        after = await stub.GetCheckpoint(pb.GetCheckpointRequest())
        if after.tree_size == found.second:
            break
        found = await stub.GetConsistencyProof(pb.GetConsistencyProofRequest(first=before.tree_size))
    old, new = (verify(note.checkpoint, before.verifier_key) for note in (before, after))
    assert merkle.verify_consistency(old.size, new.size, found.hashes, old.root, new.root)


async def test_verification_reports_that_all_is_well(stub, event):
    await append(stub, [event() for _ in range(100)])
    steps = [step async for step in stub.Verify(pb.VerifyRequest())]
    assert steps[-1].done
    assert (steps[-1].records, list(steps[-1].problems)) == (100, [])


async def test_a_tenant_sees_its_own_events_alone(stub, event):
    mine, other = event(tenant="a", trace_id=b"t" * 16), event(tenant="b", trace_id=b"t" * 16)
    await append(stub, [mine, other])
    async with as_key_of("a"):
        assert len((await stub.Query(pb.QueryRequest())).events) == 1
        assert len((await stub.GetTrace(pb.GetTraceRequest(trace_id=(b"t" * 16).hex()))).events) == 1
        assert (await stub.GetEvent(pb.GetEventRequest(event_id=text(mine)))).event.event == mine
        for call in (
            stub.GetEvent(pb.GetEventRequest(event_id=text(other))),
            stub.GetInclusionProof(pb.GetInclusionProofRequest(event_id=text(other))),
        ):
            with pytest.raises(NotFound):
                await call


async def exported(stub, trace):
    """How many records a bundle of a trace has."""
    parts = [part.data async for part in stub.Export(pb.ExportRequest(trace_id=trace))]
    return b"".join(parts).count(b'"record"')


async def test_a_trace_that_is_too_long_is_said_to_be_and_exported_whole(stub, event, monkeypatch):
    monkeypatch.setattr("moltbot_audit.index._MOST_OF_A_TRACE", 5)
    trace = (b"t" * 16).hex()
    others, mine = (
        [event(tenant=name, trace_id=b"t" * 16) for _ in range(count)] for name, count in (("b", 7), ("a", 5))
    )
    await append(stub, others, mine)
    async with as_key_of("", ("auditor",)):
        await proof_of(stub, text(mine[-1]))
    async with as_key_of("a"):
        found = await stub.GetTrace(pb.GetTraceRequest(trace_id=trace))
        assert [logged.event for logged in found.events] == mine
        assert await exported(stub, trace) == 5
    for name, roles in (("b", ()), ("", ("auditor",))):
        async with as_key_of(name, roles):
            with pytest.raises(OutOfRange, match=f"export --trace {trace}"):
                await stub.GetTrace(pb.GetTraceRequest(trace_id=trace))
            assert await exported(stub, trace) == (7 if name else 12)
    async with as_key_of("c"):
        with pytest.raises(NotFound):
            await exported(stub, trace)


async def test_a_key_without_a_tenant_sees_nothing():
    async with as_key_of(""):
        with pytest.raises(PermissionDenied):
            _only_own("")
    async with as_key_of("", ["auditor"]):
        assert _only_own("a") == "a"


async def test_a_caller_that_leaves_in_the_middle_of_a_stream_leaves_nothing_behind(stub, event):
    async def endless():
        batch_id = 0
        while True:
            yield pb.AppendStreamRequest(batch_id=batch_id, events=[event().SerializeToString()])
            batch_id += 1

    before = len(asyncio.all_tasks())
    call = stub.AppendStream(endless())
    async for response in call:
        if response.batch_id == 20:
            break
    call.cancel()
    deadline_s = time.monotonic() + 3
    while len(asyncio.all_tasks()) > before and time.monotonic() < deadline_s:
        await asyncio.sleep(0.01)
    assert len(asyncio.all_tasks()) == before


async def test_a_producer_and_the_service_lose_nothing_over_a_restart_of_the_service(tmp_path, event):
    async with audit(tmp_path / "audit") as (stub, _):
        producer = AuditProducer(stub, tmp_path / "spill", "gateway", "g1", drain_s=3.0)
        async with producer.running():
            for _ in range(500):
                producer.emit(event())
    async with audit(tmp_path / "audit") as (stub, service):
        assert list(service.missing()) == []
        producer = AuditProducer(stub, tmp_path / "spill", "gateway", "g1", drain_s=3.0)
        async with producer.running():
            for _ in range(500):
                producer.emit(event())
        found, token = [], ""
        while True:
            page = await stub.Query(pb.QueryRequest(type=pb.EVENT_TYPE_REQUEST, page_size=1000, page_token=token))
            found += [(one.event.producer.epoch, one.event.producer.counter) for one in page.events]
            token = page.next_page_token
            if not token:
                break
    assert found[::-1] == [(epoch, n) for epoch in (1, 2) for n in range(1, 501)]


def test_records_cannot_be_kept_shorter_than_the_law_asks():
    with pytest.raises(ValueError, match="183"):
        AuditSettings(retention_days=182)
    assert AuditSettings().retention_days == 400

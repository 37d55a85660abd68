"""Reads of the log that ask for what no log has: an error of the caller's, and recorded as any other."""

from __future__ import annotations

from unittest.mock import AsyncMock, Mock

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from moltbot.audit.v1 import audit_pb2 as pb

from moltbot_audit.index import Index
from moltbot_audit.records import Filter
from moltbot_audit.servicer import AuditServicer
from moltbot_mesh.call import Call, Principal, enter_call, leave_call
from moltbot_mesh.errors import InvalidArgument

YEAR_9999 = Timestamp(seconds=253_402_300_799)
YEAR_1 = Timestamp(seconds=-62_135_596_800)


@pytest.fixture
def reads(tmp_path):
    index = Index(tmp_path / "index.sqlite")
    ledger = Mock()
    ledger.query.side_effect = index.query
    ledger.at.side_effect = index.place_at
    enter_call(Call("test", Principal("key", "k", "acme", frozenset({"user"}))))
    yield AuditServicer(ledger, AsyncMock())
    leave_call(None)
    index.close()


@pytest.mark.parametrize("time", [YEAR_9999, YEAR_1])
async def test_any_time_may_be_asked_for(reads, time):
    found = await reads.Query(pb.QueryRequest(start_time=time, end_time=time), None)
    assert not found.events


async def test_a_time_that_is_none_is_refused(reads):
    with pytest.raises(InvalidArgument, match="not a time"):
        await reads.Query(pb.QueryRequest(end_time=Timestamp(nanos=-1, seconds=1 << 60)), None)


async def test_nothing_is_found_before_the_epoch(reads):
    await reads.Query(pb.QueryRequest(end_time=YEAR_1), None)
    (wanted, _, _), _ = reads._ledger.query.call_args
    assert isinstance(wanted, Filter)
    assert wanted.end_ns == 1


@pytest.mark.parametrize("name", ["9" * 19, "9" * 20, "9" * 64, "1" * 19 + "x"])
async def test_a_sequence_that_no_log_has_is_refused(reads, name):
    with pytest.raises(InvalidArgument):
        await reads.GetEvent(pb.GetEventRequest(event_id=name), None)

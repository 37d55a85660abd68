"""What administrators have done is in the log before it happens, or it does not happen."""

from __future__ import annotations

import pytest
from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.audit.acts import ADMINISTRATION, WATERMARK_KEY, Acts
from moltbot_mesh.audit.calls import CallRecords
from moltbot_mesh.call import ANONYMOUS, Call, Principal, enter_call, leave_call
from moltbot_mesh.errors import Unavailable


class Producer:
    def __init__(self):
        self.durable, self.emitted, self.full = [], [], False

    async def emit_durable(self, event):
        if self.full:
            raise Unavailable("full")
        self.durable.append(event)

    def emit(self, event):
        if self.full:
            raise Unavailable("full")
        self.emitted.append(event)


@pytest.fixture(autouse=True)
def _no_call():
    leave_call(None)  # a test before may have left one


@pytest.fixture
def producer():
    return Producer()


@pytest.fixture
def acts(producer):
    calls = CallRecords("i-1")
    calls.producer = producer
    return Acts(calls, "watermark", "i-1")


async def test_an_act_is_on_disk_before_it_happens_and_names_who_asked(acts, producer):
    enter_call(Call("/m", Principal("key", "k1", "acme"), request_id="r-1", event_id=b"e" * 16))
    try:
        await acts.before(WATERMARK_KEY, "rotate key", "tenant:acme", {"epoch": "2"})
    finally:
        leave_call(None)
    (event,) = producer.durable
    assert (event.type, event.action, event.object) == (WATERMARK_KEY, "rotate key", "tenant:acme")
    assert (event.subject, event.tenant, event.request_id) == ("k1", "acme", "r-1")
    assert event.parent_event_id == b"e" * 16
    assert event.attributes["epoch"] == "2"


async def test_what_cannot_be_recorded_must_not_happen(acts, producer):
    producer.full = True
    with pytest.raises(Unavailable):
        await acts.before(WATERMARK_KEY, "rotate key", "tenant:acme")
    with pytest.raises(Unavailable, match="no audit log"):
        await Acts(CallRecords("i-1"), "watermark", "i-1").before(WATERMARK_KEY, "rotate key", "tenant:acme")


async def test_what_has_happened_is_recorded_without_waiting_and_never_fails(acts, producer):
    acts.after(ADMINISTRATION, "change routing table", "routing table", {"a.yaml": "00"})
    acts.after(ADMINISTRATION, "refuse routing table", "routing table", failed=True)
    assert [event.outcome for event in producer.emitted] == [
        audit_pb2.OUTCOME_SUCCESS,
        audit_pb2.OUTCOME_FAILED,
    ]
    assert producer.emitted[0].subject == "watermark"
    producer.full = True
    acts.after(ADMINISTRATION, "change routing table", "routing table")
    Acts(CallRecords("i-1"), "router", "i-1").after(ADMINISTRATION, "x", "y")


async def test_nobody_is_not_named_where_the_service_acts(acts, producer):
    enter_call(Call("/m", ANONYMOUS, request_id="r-1"))
    try:
        acts.after(ADMINISTRATION, "change routing table", "routing table")
    finally:
        leave_call(None)
    assert (producer.emitted[0].subject, producer.emitted[0].request_id) == ("watermark", "r-1")

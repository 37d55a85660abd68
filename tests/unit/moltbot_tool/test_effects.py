"""A tool that changes something runs only after the audit log's event of it is on disk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.audit.frames import Frame, read
from moltbot_mesh.audit.producer import AuditProducer
from moltbot_mesh.errors import DeadlineExceeded, Unavailable
from moltbot_tool.effects import EffectRecords
from moltbot_tool.tools import Effect, Registry, Tool, ToolFailure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Down:
    """An audit service that is not there."""

    def AppendStream(self, requests):  # noqa: N802
        raise Unavailable("down")


@pytest.fixture
async def producer(tmp_path) -> AsyncIterator[AuditProducer]:
    async with AuditProducer(Down(), tmp_path, "tool", "tool-1", spill_bytes=16_384, drain_s=0).running() as running:
        yield running


def on_disk(spill: Path) -> list[audit_pb2.AuditEvent]:
    return [
        audit_pb2.AuditEvent.FromString(item.payload)
        for path in sorted(spill.glob("*.spill"))
        for item in read(path.read_bytes(), 0, int(path.stem))
        if isinstance(item, Frame)
    ]


def registry(producer, run, effect=Effect.WRITE) -> Registry:
    tool = Tool("t", "does it", {"type": "object"}, run, effect, timeout_s=0.5)
    return Registry([tool], {}, 256, effect=EffectRecords(producer).call)


async def test_the_event_is_on_disk_before_the_effect(producer, tmp_path):
    seen: list[audit_pb2.AuditEvent] = []

    def run(_) -> str:
        seen.extend(on_disk(tmp_path))
        return "done"

    assert (await registry(producer, run).call("acme", "t", "{}")).content == "done"
    (begun,) = seen
    assert (begun.type, begun.tenant, begun.object) == (audit_pb2.EVENT_TYPE_TOOL_CALL, "acme", "t")
    assert dict(begun.attributes) == {"effect": "write", "phase": "begun"}


async def test_without_room_for_the_event_there_is_no_effect(producer):
    ran: list[object] = []
    producer._spill._limit_bytes = 0
    with pytest.raises(Unavailable) as refused:
        await registry(producer, lambda arguments: ran.append(arguments) or "").call("acme", "t", "{}")
    assert (refused.value.reason, ran) == ("AUDIT_UNAVAILABLE", [])


@pytest.mark.parametrize("effect", [Effect.PURE, Effect.READ])
async def test_what_changes_nothing_is_not_held_up(producer, effect):
    producer._spill._limit_bytes = 0
    assert (await registry(producer, lambda _: "4", effect).call("acme", "t", "{}")).content == "4"


async def test_how_it_ended_is_recorded_too(producer, tmp_path):
    def fail(_) -> str:
        raise ToolFailure("no")

    def hang(_) -> str:
        time.sleep(0.7)
        return ""

    await registry(producer, lambda _: "").call("acme", "t", "{}")
    await registry(producer, fail).call("acme", "t", "{}")
    with pytest.raises(DeadlineExceeded):
        await registry(producer, hang).call("acme", "t", "{}")
    await producer.emit_durable(
        audit_pb2.AuditEvent(
            type=audit_pb2.EVENT_TYPE_LIFECYCLE, outcome=audit_pb2.OUTCOME_SUCCESS, subject="x", action="x"
        )
    )
    begun, ended = on_disk(tmp_path)[:-1:2], on_disk(tmp_path)[1:-1:2]
    assert [one.parent_event_id for one in ended] == [one.event_id for one in begun]
    success, failed = audit_pb2.OUTCOME_SUCCESS, audit_pb2.OUTCOME_FAILED
    assert [one.outcome for one in ended] == [success, failed, failed]


def test_a_tool_that_changes_something_is_not_registered_where_nothing_records_it():
    tool = Tool("t", "does it", {"type": "object"}, lambda _: "", Effect.WRITE)
    with pytest.raises(ValueError, match="record"):
        Registry([tool], {}, 256)

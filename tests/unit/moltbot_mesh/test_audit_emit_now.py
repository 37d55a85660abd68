"""What is recorded before an answer ends is on its way to the log even if the process is killed the next moment."""

from __future__ import annotations

import errno

import pytest
from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.audit.frames import Frame, read
from moltbot_mesh.audit.producer import AuditProducer


class Down:
    """An audit service that takes nothing: all stays in the spill."""

    @property
    def AppendStream(self):  # noqa: N802
        async def answers(requests):
            raise OSError(errno.ECONNREFUSED, "down")
            yield requests

        class Call:
            def __init__(self, requests):
                self._answers = answers(requests)

            def __aiter__(self):
                return self._answers

            def cancel(self):
                return True

        return Call


def event(action):
    return audit_pb2.AuditEvent(
        type=audit_pb2.EVENT_TYPE_REQUEST, outcome=audit_pb2.OUTCOME_SUCCESS, subject="key-1", action=action
    )


@pytest.fixture
async def producer(tmp_path):
    async with AuditProducer(Down(), tmp_path, "gateway", "gateway-1", drain_s=0).running() as running:
        yield running


def spilled(directory):
    """What a process that starts now would find: action and number of each event."""
    found = []
    for path in sorted(directory.glob("*.spill")):
        for frame in read(path.read_bytes(), 0, int(path.stem)):
            assert isinstance(frame, Frame)
            one = audit_pb2.AuditEvent.FromString(frame.payload)
            found.append((one.action, one.producer.counter))
    return found


async def test_it_is_in_the_spill_when_the_call_returns_together_with_what_waited(producer, tmp_path):
    producer.emit(event("waits"))
    assert spilled(tmp_path) == []
    producer.emit_now([event("request"), event("model call")])
    assert spilled(tmp_path) == [("waits", 1), ("request", 2), ("model call", 3)]
    assert producer.stats.queued == 0
    assert producer.stats.emitted == 3


async def test_a_write_that_fails_leaves_no_gap_in_the_numbers_and_no_event_out(producer, tmp_path, monkeypatch):
    producer.emit(event("waits"))
    with monkeypatch.context() as broken:

        def fails(*_):
            raise OSError(errno.EIO, "broken")

        broken.setattr("moltbot_mesh.audit.spill.os.pwrite", fails)
        producer.emit_now([event("request"), event("model call")])
        assert producer.stats.queued == 3
    producer.emit_now([event("next")])
    assert producer.stats.queued == 0
    assert spilled(tmp_path) == [("waits", 1), ("request", 2), ("model call", 3), ("next", 4)]

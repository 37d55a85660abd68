"""What an outage of the audit service shows, before anything is lost."""

from __future__ import annotations

import asyncio

import pytest
from moltbot.audit.v1 import audit_pb2
from prometheus_client import CollectorRegistry

from moltbot_mesh.audit import producer as producer_module
from moltbot_mesh.audit.producers import Producers
from moltbot_mesh.audit.settings import RecordingSettings
from moltbot_mesh.errors import Unavailable


class Service:
    """An audit service that is away until told otherwise."""

    def __init__(self):
        self.away = True

    @property
    def AppendStream(self):  # noqa: N802
        async def answers(requests):
            if self.away:
                raise Unavailable("away")
            async for request in requests:
                yield audit_pb2.AppendStreamResponse(batch_id=request.batch_id, sequences=[0] * len(request.events))

        class Call:
            def __init__(self, requests):
                self._answers = answers(requests)

            def __aiter__(self):
                return self._answers

            def cancel(self):
                return True

        return Call


def event(size=10):
    return audit_pb2.AuditEvent(
        type=audit_pb2.EVENT_TYPE_REQUEST,
        outcome=audit_pb2.OUTCOME_SUCCESS,
        subject="key-1",
        action="do",
        object="x" * size,
    )


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def made(registry, tmp_path):
    def make(service, **settings):
        return Producers(RecordingSettings(**settings), "gateway-1", registry).make(
            service, tmp_path / "spill", "gateway"
        )

    return make


def shown(registry, name):
    return registry.get_sample_value(f"moltbot_audit_{name}", {"producer": "gateway/spill"})


async def test_metrics_tell_how_far_a_producer_is_behind(made, registry):
    service = Service()
    async with made(service).running() as producer:
        assert shown(registry, "behind_seconds") == 0
        for _ in range(7):
            producer.emit_now([event()])
        await asyncio.sleep(0.05)
        assert shown(registry, "events_total") == 7
        assert shown(registry, "acknowledged_total") == 0
        assert shown(registry, "behind_seconds") >= 0.05
        assert 0 < shown(registry, "spill_bytes") < shown(registry, "spill_limit_bytes") == 256 << 20
        service.away = False
        await until(lambda: shown(registry, "acknowledged_total") == 7)
        assert shown(registry, "behind_seconds") == 0
        assert shown(registry, "dropped_total") == shown(registry, "spill_failing") == 0


async def test_an_audit_service_that_is_away_for_long_is_an_alarm(made, monkeypatch):
    monkeypatch.setattr(producer_module, "_ALARM_S", 0.05)
    service = Service()
    async with made(service).running() as producer:
        producer.emit_now([event()])
        assert producer.alarm == ""
        await asyncio.sleep(0.06)
        assert "records have waited" in producer.alarm
        service.away = False
        await until(lambda: producer.alarm == "")


async def test_a_spill_that_is_half_full_is_an_alarm(made):
    async with made(Service(), spill_mib=1).running() as producer:
        for _ in range(10):
            producer.emit_now([event(60_000)])
        assert "the spill is 57 % full" in producer.alarm


@pytest.mark.parametrize(("on_full", "refused"), [("block_high_risk", False), ("block_all", True)])
async def test_a_full_spill_is_an_alarm_and_stops_what_the_policy_says(made, on_full, refused):
    async with made(Service(), spill_mib=1, on_full=on_full).running() as producer:
        for _ in range(20):
            producer.emit_now([event(60_000)])
        await until(lambda: producer.problem)
        assert "records cannot be kept: the audit spill is full" in producer.alarm
        assert bool(producer.refuses) is refused
        if refused:
            with pytest.raises(Unavailable, match="the audit spill is full"):
                producer.admit()
        else:
            producer.admit()

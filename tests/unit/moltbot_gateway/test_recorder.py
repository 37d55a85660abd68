"""What is recorded of an answer and of what the model thought before it: apart, under one audit event."""

from __future__ import annotations

import hmac
from unittest.mock import Mock

import pytest
from moltbot.watermark.v1 import watermark_pb2

from moltbot_gateway.recorder import Recorder
from moltbot_mesh.telemetry import Metrics, Telemetry, TelemetrySettings

KEY = bytes(range(32))


def commitment(tenant: str, text: str) -> bytes:
    return hmac.digest(hmac.digest(KEY, tenant.encode(), "sha256"), text.encode(), "sha256")


@pytest.fixture
def recorded(exchange):
    """Records the exchange; the request's event and the outputs that are registered."""

    def record(text: str, reasoning: str):
        exchange.text, exchange.reasoning = [*text], [*reasoning]
        exchange.model, exchange.mark_id, exchange.mark_epoch = "m", 7, 2
        producer, outputs = Mock(), Mock()
        Recorder(producer, outputs, Telemetry("gateway", Metrics(), TelemetrySettings()), KEY, "gateway", "i").record(
            exchange
        )
        (events,) = producer.emit_now.call_args.args
        return events[0], [call.args[0] for call in outputs.put.call_args_list]

    return record


def test_thoughts_have_a_commitment_and_a_length_of_their_own(recorded):
    event, _ = recorded("vier", "zwei und zwei gibt fünf, nein")
    assert event.output_commitment == commitment("acme", "vier")
    assert event.reasoning_commitment == commitment("acme", "zwei und zwei gibt fünf, nein")
    assert (event.output_bytes, event.reasoning_bytes) == (4, 30)


def test_thoughts_are_registered_under_the_same_event_as_their_answer(recorded, exchange):
    _, (said, thought) = recorded("4", "2 + 2")
    assert (thought.kind, thought.text) == (watermark_pb2.OUTPUT_KIND_REASONING, "2 + 2")
    assert (said.kind, said.text) == (watermark_pb2.OUTPUT_KIND_ANSWER, "4")
    for output in (thought, said):
        assert (output.audit_id, output.request_id, output.model) == (exchange.audit_id, "r-1", "m")
        assert (output.tenant, output.mark_id, output.epoch) == ("acme", 7, 2)


def test_thoughts_that_came_to_no_answer_are_registered_all_the_same(recorded):
    event, (only,) = recorded("", "2 + 2")
    assert only.kind == watermark_pb2.OUTPUT_KIND_REASONING
    assert (event.output_commitment, event.output_bytes, event.reasoning_bytes) == (b"", 0, 5)


def test_a_model_that_thinks_nothing_has_one_output(recorded):
    event, (only,) = recorded("4", "")
    assert only.kind == watermark_pb2.OUTPUT_KIND_ANSWER
    assert (event.reasoning_commitment, event.reasoning_bytes) == (b"", 0)

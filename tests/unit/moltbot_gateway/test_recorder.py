"""What is recorded of an answer and of what the model thought before it: apart, under one audit event."""

from __future__ import annotations

import hmac
from unittest.mock import Mock

import pytest
from moltbot.audit.v1 import audit_pb2
from moltbot.watermark.v1 import watermark_pb2

from moltbot_gateway.exchange import Attempt, Routing, ToolRun
from moltbot_gateway.recorder import Recorder
from moltbot_mesh.telemetry import Metrics, Telemetry, TelemetrySettings
from moltbot_models.generation import Usage

KEY = bytes(range(32))


def commitment(event, text: str) -> bytes:
    tenant_key = hmac.digest(KEY, event.tenant.encode(), "sha256")
    return hmac.digest(hmac.digest(tenant_key, event.event_id, "sha256"), text.encode(), "sha256")


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
    assert event.output_commitment == commitment(event, "vier")
    assert event.reasoning_commitment == commitment(event, "zwei und zwei gibt fünf, nein")
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


class Bodies:
    """Where bodies are kept."""

    wanted = certain = True

    def __init__(self):
        self.kept = {}

    def keep(self, event_id, body):
        self.kept[event_id] = body


@pytest.fixture
def causes(exchange):
    """Records the exchange; all its events by type."""

    def record(bodies=None):
        producer = Mock()
        telemetry = Telemetry("gateway", Metrics(), TelemetrySettings())
        Recorder(producer, Mock(), telemetry, KEY, "gateway", "i", bodies).record(exchange)
        (events,) = producer.emit_now.call_args.args
        return {event.type: event for event in events}

    return record


def test_what_a_request_causes_names_it_as_its_parent(causes, exchange):
    exchange.routing, exchange.rule = Routing(("a", "b"), 40), "chat"
    exchange.attempts = [Attempt("a", "success", "", 5, 70, usage=Usage(3, 4), outbound=True)]
    exchange.tool_runs = [ToolRun("calculator", "success", "", 9, "1+1", "2")]
    events = causes()
    route, call, tool = (
        events[kind]
        for kind in (audit_pb2.EVENT_TYPE_ROUTE, audit_pb2.EVENT_TYPE_MODEL_CALL, audit_pb2.EVENT_TYPE_TOOL_CALL)
    )
    for event in (route, call, tool):
        assert event.parent_event_id == exchange.event_id
        assert event.trace_id == exchange.caller.trace.trace_id
    assert (route.object, route.attributes["rule"], route.duration_us) == ("a,b", "chat", 40)
    assert (call.model, call.prompt_tokens, call.completion_tokens) == ("a", 3, 4)
    assert call.ingress == audit_pb2.INGRESS_CLASS_OUTBOUND
    assert tool.input_commitment == commitment(events[audit_pb2.EVENT_TYPE_REQUEST], "1+1")
    assert tool.output_commitment == commitment(events[audit_pb2.EVENT_TYPE_REQUEST], "2")


def test_a_commitment_to_what_is_kept_has_a_key_of_its_own_that_lies_with_it(causes, exchange):
    bodies = Bodies()
    exchange.text, exchange.input, exchange.end_user = ["vier"], b"zwei und zwei", "alice"
    event = causes(bodies)[audit_pb2.EVENT_TYPE_REQUEST]
    body = bodies.kept[exchange.event_id]
    assert (body.tenant, body.data_subject, body.input, body.output) == ("acme", "alice", b"zwei und zwei", b"vier")
    assert event.output_commitment == hmac.digest(body.commitment_key, b"vier", "sha256")
    assert event.output_commitment != commitment(event, "vier")


def test_without_an_end_user_a_body_is_about_the_key_that_asked(causes, exchange):
    bodies = Bodies()
    exchange.text = ["vier"]
    causes(bodies)
    assert bodies.kept[exchange.event_id].data_subject == exchange.caller.principal.subject


def test_while_it_is_not_known_whether_bodies_are_kept_a_commitment_follows_from_the_tenants_key(causes, exchange):
    bodies = Bodies()
    bodies.certain = False
    exchange.text, exchange.input = ["vier"], b"zwei und zwei"
    event = causes(bodies)[audit_pb2.EVENT_TYPE_REQUEST]
    assert event.output_commitment == commitment(event, "vier")
    assert event.output_commitment == hmac.digest(bodies.kept[exchange.event_id].commitment_key, b"vier", "sha256")

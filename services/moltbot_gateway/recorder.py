"""Turns a finished exchange into audit events, metrics and the output's fingerprint. Nobody waits for it."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import structlog
from moltbot.audit.v1 import audit_pb2
from moltbot.watermark.v1 import watermark_pb2

from moltbot_gateway.spans import record_spans
from moltbot_mesh.audit.event_words import OUTCOMES, ingress
from moltbot_mesh.errors import MoltbotError
from moltbot_mesh.uuid7 import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_gateway.exchange import Attempt, Exchange, ToolRun
    from moltbot_gateway.outputs import Outputs
    from moltbot_mesh.audit.producer import AuditProducer
    from moltbot_mesh.telemetry import Telemetry

log = structlog.get_logger("moltbot.gateway")

_TENANTS_REMEMBERED = 1024


class Recorder:
    """Records what happened.

    Args:
        producer: Takes audit events.
        outputs: Take answers to be registered.
        telemetry: Takes metrics and spans.
        commitment_key: Keys the commitments to prompts and answers, 32 bytes.
        service: This service's name.
        instance: This instance.
    """

    def __init__(
        self,
        producer: AuditProducer,
        outputs: Outputs,
        telemetry: Telemetry,
        commitment_key: bytes,
        service: str,
        instance: str,
    ) -> None:
        self._producer = producer
        self._outputs = outputs
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._commitment_key = commitment_key
        self._service = service
        self._instance = instance
        self._keyed: dict[str, hmac.HMAC] = {}

    def commitment(self, tenant: str, data: bytes) -> bytes:
        """HMAC-SHA256 of data under the tenant's commitment key, 32 bytes: shows nothing without the key."""
        keyed = self._keyed.get(tenant)
        if keyed is None:
            if len(self._keyed) >= _TENANTS_REMEMBERED:
                self._keyed.clear()
            key = hmac.digest(self._commitment_key, tenant.encode(), "sha256")
            keyed = self._keyed[tenant] = hmac.new(key, digestmod="sha256")
        # A copy: `hmac.digest` lets go of the interpreter's lock each time, which costs more than the hash.
        commitment = keyed.copy()
        commitment.update(data)
        return commitment.digest()

    def _emit(self, events: Sequence[audit_pb2.AuditEvent]) -> None:
        try:
            self._producer.emit_now(events)
        except MoltbotError as error:
            # The producer counts them and enters a gap; the answer has gone out already.
            log.critical("audit events not recorded", request_id=events[0].request_id, error=error.message)

    def record(self, exchange: Exchange) -> None:
        """Record a finished exchange: one event for the request, one for each call to a model or a tool."""
        caller, principal = exchange.caller, exchange.caller.principal
        text, reasoning = "".join(exchange.text), "".join(exchange.reasoning)
        said, thought = text.encode(), reasoning.encode()
        trace_id = caller.trace.trace_id
        event = audit_pb2.AuditEvent(
            event_id=exchange.event_id,
            time_unix_ns=exchange.started_ns,
            type=audit_pb2.EVENT_TYPE_REQUEST,
            outcome=OUTCOMES[exchange.outcome],
            tenant=principal.tenant,
            subject=principal.subject,
            action=caller.action[:256],
            object=exchange.model,
            reason=exchange.reason,
            ingress=ingress(caller.peer),
            request_id=caller.request_id,
            trace_id=trace_id,
            span_id=caller.trace.span_id,
            service=self._service,
            instance=self._instance,
            model=exchange.model,
            prompt_tokens=exchange.usage.prompt_tokens,
            completion_tokens=exchange.usage.completion_tokens,
            duration_us=exchange.watch.us(),
            input_commitment=exchange.input_digest,
            output_commitment=self.commitment(principal.tenant, said) if said else b"",
            output_bytes=len(said),
            reasoning_commitment=self.commitment(principal.tenant, thought) if thought else b"",
            reasoning_bytes=len(thought),
            mark_id=exchange.mark_id,
            peer=caller.peer[:64],
            http_status=exchange.http_status,
        )
        media = ", ".join(map(str, exchange.media))
        for key, value in (("task_type", exchange.task_type), ("rule", exchange.rule), ("media", media)):
            if value:
                event.attributes[key] = value
        events = [event]
        for attempt in exchange.attempts:
            events.append(self._caused(exchange, audit_pb2.EVENT_TYPE_MODEL_CALL, attempt.model, attempt))
            if attempt.outcome == "failed":
                self._metrics.upstream_failures.labels(attempt.model, attempt.reason).inc()
            elif attempt.first_token_us:
                self._metrics.first_token_seconds.labels(attempt.model).observe(attempt.first_token_us / 1e6)
        events += [self._caused(exchange, audit_pb2.EVENT_TYPE_TOOL_CALL, run.tool, run) for run in exchange.tool_runs]
        self._emit(events)
        self._metrics.requests.labels(principal.tenant, exchange.route, exchange.outcome).inc()
        if exchange.model:
            tokens = self._metrics.tokens
            tokens.labels(principal.tenant, exchange.model, "in").inc(exchange.usage.prompt_tokens)
            tokens.labels(principal.tenant, exchange.model, "out").inc(exchange.usage.completion_tokens)
        record_spans(self._telemetry, exchange)
        # The answer first: a watermark service of an earlier release takes one output of an event.
        self._register(exchange, watermark_pb2.OUTPUT_KIND_ANSWER, text)
        self._register(exchange, watermark_pb2.OUTPUT_KIND_REASONING, reasoning)

    def _register(self, exchange: Exchange, kind: watermark_pb2.OutputKind.ValueType, text: str) -> None:
        if text:
            self._outputs.put(
                watermark_pb2.RegisterOutputRequest(
                    tenant=exchange.tenant,
                    request_id=exchange.caller.request_id,
                    audit_id=exchange.audit_id,
                    trace_id=exchange.caller.trace.trace_id.hex(),
                    model=exchange.model,
                    mark_id=exchange.mark_id,
                    epoch=exchange.mark_epoch,
                    text=text,
                    kind=kind,
                )
            )

    def _caused(
        self,
        exchange: Exchange,
        kind: audit_pb2.EventType.ValueType,
        what: str,
        done: Attempt | ToolRun,
    ) -> audit_pb2.AuditEvent:
        caller = exchange.caller
        return audit_pb2.AuditEvent(
            event_id=uuid7(),
            time_unix_ns=done.started_ns,
            type=kind,
            outcome=OUTCOMES[done.outcome],
            tenant=caller.principal.tenant,
            subject=caller.principal.subject,
            action="call",
            object=what,
            reason=done.reason,
            ingress=audit_pb2.INGRESS_CLASS_INTERNAL,
            request_id=caller.request_id,
            trace_id=caller.trace.trace_id,
            span_id=caller.trace.span_id,
            parent_event_id=exchange.event_id,
            service=self._service,
            instance=self._instance,
            model=what if kind == audit_pb2.EVENT_TYPE_MODEL_CALL else "",
            duration_us=done.duration_us,
        )

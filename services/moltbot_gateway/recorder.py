"""Turns a finished exchange into audit events, metrics and the output's fingerprint. Nobody waits for it."""

from __future__ import annotations

import hmac
import os
from typing import TYPE_CHECKING

import structlog
from moltbot.audit.v1 import audit_pb2, privacy_pb2
from moltbot.watermark.v1 import watermark_pb2

from moltbot_gateway.exchange import Attempt
from moltbot_gateway.spans import record_spans
from moltbot_mesh.audit.event_words import OUTCOMES, ingress
from moltbot_mesh.errors import MoltbotError
from moltbot_mesh.uuid7 import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_gateway.exchange import Exchange, Routing, ToolRun
    from moltbot_gateway.outputs import Outputs
    from moltbot_mesh.audit.bodies import BodyKeeper
    from moltbot_mesh.audit.producer import AuditProducer
    from moltbot_mesh.telemetry import Telemetry

log = structlog.get_logger("moltbot.gateway")

_TENANTS_REMEMBERED = 1024
_KEY_BYTES = 32


class Recorder:
    """Records what happened.

    Args:
        producer: Takes audit events.
        outputs: Take answers to be registered.
        telemetry: Takes metrics and spans.
        commitment_key: Keys the commitments to prompts and answers, 32 bytes.
        service: This service's name.
        instance: This instance.
        bodies: Take what was asked and answered, where that is kept.
    """

    def __init__(
        self,
        producer: AuditProducer,
        outputs: Outputs,
        telemetry: Telemetry,
        commitment_key: bytes,
        service: str,
        instance: str,
        bodies: BodyKeeper | None = None,
    ) -> None:
        self._producer = producer
        self._outputs = outputs
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._commitment_key = commitment_key
        self._service = service
        self._instance = instance
        self._bodies = bodies
        self._tenant_keys: dict[str, bytes] = {}

    @property
    def keeps_bodies(self) -> bool:
        """Whether what is asked and answered is kept for inquiries."""
        return self._bodies is not None and self._bodies.wanted

    def commitment(self, exchange: Exchange, data: bytes) -> bytes:
        """HMAC-SHA256 of data under the request's commitment key, 32 bytes: shows nothing without the key.

        Where the body is kept for certain, the key is drawn for the request and lies with it, so that nothing can be
        said of the commitment once it is shredded; else it follows from the tenant's, and a text can be checked later.
        """
        if not exchange.commitment_key:
            # A drawn key that is not kept could open nothing, ever.
            if self._bodies is not None and self._bodies.certain and exchange.input and exchange.tenant:
                exchange.commitment_key = os.urandom(_KEY_BYTES)
            else:
                exchange.commitment_key = hmac.digest(self._tenant_key(exchange.tenant), exchange.event_id, "sha256")
        return hmac.digest(exchange.commitment_key, data, "sha256")

    def _tenant_key(self, tenant: str) -> bytes:
        key = self._tenant_keys.get(tenant)
        if key is None:
            if len(self._tenant_keys) >= _TENANTS_REMEMBERED:
                self._tenant_keys.clear()
            key = self._tenant_keys[tenant] = hmac.digest(self._commitment_key, tenant.encode(), "sha256")
        return key

    def _emit(self, events: Sequence[audit_pb2.AuditEvent]) -> None:
        try:
            self._producer.emit_now(events)
        except MoltbotError as error:
            # The producer counts them and enters a gap; the answer has gone out already.
            log.critical("audit events not recorded", request_id=events[0].request_id, error=error.message)

    def record(self, exchange: Exchange) -> None:
        """Record a finished exchange: one event for the request, one for its routing, one for each call it made."""
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
            output_commitment=self.commitment(exchange, said) if said else b"",
            output_bytes=len(said),
            reasoning_commitment=self.commitment(exchange, thought) if thought else b"",
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
        if exchange.routing is not None:
            events.append(self._routed(exchange, exchange.routing))
        for attempt in exchange.attempts:
            events.append(self._caused(exchange, audit_pb2.EVENT_TYPE_MODEL_CALL, attempt.model, attempt))
            if attempt.outcome == "failed":
                self._metrics.upstream_failures.labels(attempt.model, attempt.reason).inc()
            elif attempt.first_token_us:
                self._metrics.first_token_seconds.labels(attempt.model).observe(attempt.first_token_us / 1e6)
        events += [self._caused(exchange, audit_pb2.EVENT_TYPE_TOOL_CALL, run.tool, run) for run in exchange.tool_runs]
        self._emit(events)
        if self._bodies is not None and self._bodies.wanted:
            self._keep_bodies(exchange, said, thought)
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

    def _keep_bodies(self, exchange: Exchange, said: bytes, thought: bytes) -> None:
        assert self._bodies is not None
        principal = exchange.caller.principal
        if principal.tenant and (exchange.input or said or thought):
            body = privacy_pb2.Body(
                tenant=principal.tenant,
                data_subject=exchange.end_user or principal.subject,
                trace_id=exchange.caller.trace.trace_id,
                time_unix_ns=exchange.started_ns,
                commitment_key=exchange.commitment_key,
                input=exchange.input,
                output=said,
                reasoning=thought,
            )
            self._bodies.keep(exchange.event_id, body)

    def _routed(self, exchange: Exchange, routing: Routing) -> audit_pb2.AuditEvent:
        event = self._event(exchange, audit_pb2.EVENT_TYPE_ROUTE, routing.started_ns)
        event.action, event.object = "route", ",".join(routing.candidates)[:512]
        event.duration_us = routing.duration_us
        for key, value in (("task_type", exchange.task_type), ("rule", exchange.rule)):
            if value:
                event.attributes[key] = value
        return event

    def _caused(
        self,
        exchange: Exchange,
        kind: audit_pb2.EventType.ValueType,
        what: str,
        done: Attempt | ToolRun,
    ) -> audit_pb2.AuditEvent:
        event = self._event(exchange, kind, done.started_ns)
        event.action, event.object, event.reason = "call", what, done.reason
        event.outcome, event.duration_us = OUTCOMES[done.outcome], done.duration_us
        if isinstance(done, Attempt):
            event.model = what
            event.prompt_tokens, event.completion_tokens = done.usage.prompt_tokens, done.usage.completion_tokens
            if done.outbound:
                event.ingress = audit_pb2.INGRESS_CLASS_OUTBOUND
        else:
            event.input_commitment = self.commitment(exchange, done.arguments.encode())
            event.output_commitment = self.commitment(exchange, done.result.encode()) if done.result else b""
        return event

    def _event(self, exchange: Exchange, kind: audit_pb2.EventType.ValueType, started_ns: int) -> audit_pb2.AuditEvent:
        """Something that a request caused."""
        caller = exchange.caller
        return audit_pb2.AuditEvent(
            event_id=uuid7(),
            time_unix_ns=started_ns,
            type=kind,
            outcome=audit_pb2.OUTCOME_SUCCESS,
            tenant=caller.principal.tenant,
            subject=caller.principal.subject,
            ingress=audit_pb2.INGRESS_CLASS_INTERNAL,
            request_id=caller.request_id,
            trace_id=caller.trace.trace_id,
            span_id=caller.trace.span_id,
            parent_event_id=exchange.event_id,
            service=self._service,
            instance=self._instance,
        )

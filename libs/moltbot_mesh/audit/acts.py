"""What a service does of its own accord, or that only administrators may have it do: in the log before it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.call import current_call
from moltbot_mesh.errors import MoltbotError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moltbot_mesh.audit.calls import CallRecords

log = structlog.get_logger("moltbot.audit")

ADMINISTRATION = audit_pb2.EVENT_TYPE_ADMINISTRATION
LIFECYCLE = audit_pb2.EVENT_TYPE_LIFECYCLE
WATERMARK_KEY = audit_pb2.EVENT_TYPE_WATERMARK_KEY


class Acts:
    """Records the acts of one service.

    Args:
        calls: Of its process; has the producer.
        service: Its name.
        instance: Of the process.
    """

    def __init__(self, calls: CallRecords, service: str, instance: str) -> None:
        self._calls, self._service, self._instance = calls, service, instance

    async def before(
        self, kind: audit_pb2.EventType.ValueType, action: str, target: str, facts: Mapping[str, str] | None = None
    ) -> None:
        """Record an act and wait until the record is on disk: do it only then.

        Args:
            kind: `ADMINISTRATION`, `WATERMARK_KEY` or `LIFECYCLE`.
            action: What is done: `rotate key`.
            target: To what.
            facts: Others, none of them personal.

        Raises:
            Unavailable: It cannot be recorded: it must not happen.
        """
        producer = self._calls.producer
        if producer is None:
            raise Unavailable(f"{action}: no audit log is in reach", reason="AUDIT_UNAVAILABLE", retry_after_s=1.0)
        await producer.emit_durable(self._event(kind, action, target, facts or {}))

    def after(
        self,
        kind: audit_pb2.EventType.ValueType,
        action: str,
        target: str,
        facts: Mapping[str, str] | None = None,
        *,
        failed: bool = False,
    ) -> None:
        """Record what has happened; never waits, and nothing is recorded while no log is in reach."""
        producer = self._calls.producer
        if producer is None:
            return
        event = self._event(kind, action, target, facts or {})
        if failed:
            event.outcome = audit_pb2.OUTCOME_FAILED
        try:
            producer.emit(event)
        except MoltbotError as error:  # the producer counts it and enters a gap
            log.critical("act not recorded", action=action, target=target, error=error.message)

    def _event(
        self, kind: audit_pb2.EventType.ValueType, action: str, target: str, facts: Mapping[str, str]
    ) -> audit_pb2.AuditEvent:
        call = current_call()
        event = audit_pb2.AuditEvent(
            type=kind,
            outcome=audit_pb2.OUTCOME_SUCCESS,
            subject=self._service,
            action=action[:256],
            object=target[:512],
            ingress=audit_pb2.INGRESS_CLASS_INTERNAL,
            service=self._service,
            instance=self._instance,
            attributes={key: value[:1024] for key, value in facts.items()},
        )
        if call is not None:
            if call.principal.kind != "anonymous":  # the service is who acts then
                event.subject, event.tenant = call.principal.subject[:256], call.principal.tenant[:128]
            event.request_id, event.parent_event_id = call.request_id[:128], call.event_id
            event.trace_id, event.span_id = call.trace.trace_id, call.trace.span_id
            event.peer = call.peer[:64]
        return event

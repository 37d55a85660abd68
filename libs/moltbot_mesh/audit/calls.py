"""One audit event for each call that a client makes to a service of the mesh itself, refused ones too.

The gateway records what models are asked, and the audit service what is read of its log; all else that clients reach
through Envoy (sessions, tools, routing, marks, proofs) is recorded here. Calls between services are part of a request
that is recorded where it came in.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.audit.event_words import OUTCOMES, ingress
from moltbot_mesh.errors import MoltbotError
from moltbot_mesh.uuid7 import uuid7

if TYPE_CHECKING:
    from moltbot_mesh.audit.event_words import Outcome
    from moltbot_mesh.audit.producer import AuditProducer
    from moltbot_mesh.call import Call

log = structlog.get_logger("moltbot.audit")


class CallRecords:
    """Records the calls of one process.

    Args:
        instance: Of the process.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self.producer: AuditProducer | None = None
        """Takes the events; without one (no audit service in reach) nothing is recorded."""

    def admit(self) -> None:
        """Ask before a call is served whether it can be recorded.

        Raises:
            Unavailable: It cannot, and calls are refused then.
        """
        if self.producer is not None:
            self.producer.admit()

    def record(
        self, service: str, call: Call, outcome: Outcome, reason: str, http_status: int, duration_us: int
    ) -> None:
        """Record a call before its answer goes out.

        Args:
            service: That was called.
            call: Its caller, action, trace and request id.
            outcome: How it ended.
            reason: From `ErrorReason`; empty for a success.
            http_status: As a client of REST sees it; 0 for gRPC.
            duration_us: How long it took.
        """
        if self.producer is None:
            return
        event = audit_pb2.AuditEvent(
            event_id=uuid7(),
            time_unix_ns=time.time_ns() - duration_us * 1000,
            type=audit_pb2.EVENT_TYPE_REQUEST,
            outcome=OUTCOMES[outcome],
            tenant=call.principal.tenant[:128],
            subject=call.principal.subject[:256],
            action=(call.action or call.method)[:256],
            reason=reason[:64],
            ingress=ingress(call.peer),
            request_id=call.request_id[:128],
            trace_id=call.trace.trace_id,
            span_id=call.trace.span_id,
            service=service,
            instance=self._instance,
            duration_us=duration_us,
            peer=call.peer[:64],
            http_status=http_status,
        )
        try:
            self.producer.emit_now([event])
        except MoltbotError as error:  # the producer counts it and enters a gap
            log.critical("call not recorded", method=call.method, request_id=call.request_id, error=error.message)

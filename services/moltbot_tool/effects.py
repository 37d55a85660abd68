"""What changes the world is in the audit log before it happens: an event on disk when a call begins, one when it ends.

A call whose beginning cannot be recorded, because the spill is full or the disk fails, does not run.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.call import current_call
from moltbot_mesh.errors import MoltbotError
from moltbot_mesh.telemetry import Stopwatch
from moltbot_mesh.uuid7 import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_mesh.audit.producer import AuditProducer

_ACTION = "/moltbot.tool.v1.ToolService/CallTool"


class EffectRecords:
    """Records the calls of tools that change something.

    Args:
        producer: Takes the events; its spill refuses them when it is full.
    """

    def __init__(self, producer: AuditProducer) -> None:
        self._producer = producer

    @contextlib.asynccontextmanager
    async def call(self, tenant: str, tool: str) -> AsyncGenerator[None]:
        """Record a call; it runs while the context is open.

        Args:
            tenant: For whom.
            tool: Its name.

        Raises:
            Unavailable: It cannot be recorded: it must not run.
        """
        begun = _event(tenant, tool, "begun")
        begun.event_id = uuid7()
        begun.outcome = audit_pb2.OUTCOME_SUCCESS
        await self._producer.emit_durable(begun)
        ended = _event(tenant, tool, "ended")
        ended.parent_event_id = begun.event_id  # which names what it is part of
        ended.outcome = audit_pb2.OUTCOME_FAILED
        watch = Stopwatch()
        try:
            yield
            ended.outcome = audit_pb2.OUTCOME_SUCCESS
        except asyncio.CancelledError:
            ended.outcome, ended.reason = audit_pb2.OUTCOME_CANCELLED, "CANCELLED"
            raise
        except MoltbotError as error:
            ended.reason = error.reason
            raise
        except Exception:
            ended.reason = "TOOL_FAILED"
            raise
        finally:
            ended.duration_us = watch.us()
            self._producer.emit(ended)


def _event(tenant: str, tool: str, phase: str) -> audit_pb2.AuditEvent:
    event = audit_pb2.AuditEvent(
        type=audit_pb2.EVENT_TYPE_TOOL_CALL,
        tenant=tenant,
        subject="tool",
        action=_ACTION,
        object=tool,
        ingress=audit_pb2.INGRESS_CLASS_INTERNAL,
        attributes={"effect": "write", "phase": phase},
    )
    call = current_call()
    if call is not None:
        event.subject = call.principal.subject[:256]
        event.request_id = call.request_id[:128]
        event.trace_id, event.span_id = call.trace.trace_id, call.trace.span_id
        event.parent_event_id = call.event_id
    return event

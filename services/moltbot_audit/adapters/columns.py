"""An event as a row of a table, the same in Parquet, DuckDB and ClickHouse."""

from __future__ import annotations

import uuid
from typing import NamedTuple

from moltbot.audit.v1 import audit_pb2

VERSION = 1
"""Of the columns: files of another one are written again."""
_TYPES = {number: name.removeprefix("EVENT_TYPE_").lower() for name, number in audit_pb2.EventType.items()}
_OUTCOMES = {number: name.removeprefix("OUTCOME_").lower() for name, number in audit_pb2.Outcome.items()}
_INGRESS = {number: name.removeprefix("INGRESS_CLASS_").lower() for name, number in audit_pb2.IngressClass.items()}


class Row(NamedTuple):
    """One record of the log."""

    sequence: int
    leaf_hash: bytes
    """RFC 6962; 32 bytes."""
    event_id: uuid.UUID
    time_unix_ns: int
    type: str
    """In words, as the enum's name without its prefix; a number if it is newer than this program."""
    outcome: str
    tenant: str
    subject: str
    action: str
    object: str
    reason: str
    ingress: str
    request_id: str
    trace_id: str
    """32 hex digits, or empty."""
    span_id: str
    """16 hex digits, or empty."""
    parent_event_id: uuid.UUID | None
    service: str
    instance: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    duration_us: int
    input_commitment: bytes
    output_commitment: bytes
    reasoning_commitment: bytes
    output_bytes: int
    reasoning_bytes: int
    mark_id: int
    attributes: dict[str, str]
    peer: str
    http_status: int
    producer_id: str
    """32 hex digits, or empty."""
    producer_epoch: int
    producer_counter: int


def row(sequence: int, leaf_hash: bytes, payload: bytes) -> Row:
    """A record as a row.

    Args:
        sequence: Its place in the log.
        leaf_hash: Its leaf hash.
        payload: The serialised event.
    """
    event = audit_pb2.AuditEvent.FromString(payload)
    return Row(
        sequence,
        leaf_hash,
        uuid.UUID(bytes=event.event_id),
        event.time_unix_ns,
        _TYPES.get(event.type) or str(event.type),
        _OUTCOMES.get(event.outcome) or str(event.outcome),
        event.tenant,
        event.subject,
        event.action,
        event.object,
        event.reason,
        _INGRESS.get(event.ingress) or str(event.ingress),
        event.request_id,
        event.trace_id.hex(),
        event.span_id.hex(),
        uuid.UUID(bytes=event.parent_event_id) if len(event.parent_event_id) == 16 else None,
        event.service,
        event.instance,
        event.model,
        event.prompt_tokens,
        event.completion_tokens,
        event.duration_us,
        event.input_commitment,
        event.output_commitment,
        event.reasoning_commitment,
        event.output_bytes,
        event.reasoning_bytes,
        event.mark_id,
        dict(event.attributes),
        event.peer,
        event.http_status,
        event.producer.producer_id.hex(),
        event.producer.epoch,
        event.producer.counter,
    )

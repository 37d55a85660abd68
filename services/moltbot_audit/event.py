"""An event on the wire as a record of the log."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from moltbot.audit.v1 import audit_pb2

from moltbot_audit.gaps import NO_END, Declared, Numbered
from moltbot_audit.records import Record
from moltbot_mesh.errors import InvalidArgument

_MOST_BYTES = 65_536
_DIGITS = 20
"""Of 64 bits."""


def decode(payload: bytes) -> Record:
    """The keys of a serialised AuditEvent.

    Raises:
        InvalidArgument: It is not one, is too large, or lacks a field that every event must have.
    """
    if len(payload) > _MOST_BYTES:
        raise InvalidArgument(f"events: an event has {len(payload)} bytes; at most {_MOST_BYTES} are taken")
    try:
        event = audit_pb2.AuditEvent.FromString(payload)
    except DecodeError:
        raise InvalidArgument("events: not a serialised AuditEvent") from None
    event_id, trace_id, time_ns = event.event_id, event.trace_id, event.time_unix_ns
    if (
        len(event_id) != 16 or not 0 < time_ns < 1 << 63 or not event.type or not event.outcome
        or not event.subject or not event.action or len(trace_id) not in (0, 16)
    ):  # fmt: skip
        raise InvalidArgument(f"events: an event lacks or misstates {', '.join(_wrong(event))}")
    return Record(
        event_id, payload, time_ns, trace_id, event.request_id, event.tenant, event.subject, event.model, event.type,
        event.outcome, event.ingress, event.object, event.action, event.reason, event.service, event.http_status,
    )  # fmt: skip


def numbered(payload: bytes) -> Numbered | None:
    """What a record says of its producer; None if it has none.

    Raises:
        InvalidArgument: It is not an AuditEvent.
    """
    try:
        event = audit_pb2.AuditEvent.FromString(payload)
    except DecodeError:
        raise InvalidArgument("a record is not a serialised AuditEvent") from None
    if not event.HasField("producer"):
        return None
    by, said = event.producer, event.attributes
    declared = None
    if event.type == audit_pb2.EVENT_TYPE_GAP and (first := _number(said["first_counter"])) is not None:
        last, dropped, epoch = (_number(said[name]) for name in ("last_counter", "dropped", "epoch"))
        declared = Declared(
            epoch or by.epoch, first, NO_END if last is None else last, NO_END if dropped is None else dropped
        )
    return Numbered(by.producer_id, by.epoch, by.counter, event.service, event.instance, declared)


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < _DIGITS else None


def _wrong(event: audit_pb2.AuditEvent) -> list[str]:
    stated = {
        "event_id (16 bytes)": len(event.event_id) == 16,
        "time_unix_ns": 0 < event.time_unix_ns < 1 << 63,
        "type": event.type,
        "outcome": event.outcome,
        "subject": event.subject,
        "action": event.action,
        "trace_id (none or 16 bytes)": len(event.trace_id) in (0, 16),
    }
    return [name for name, right in stated.items() if not right]

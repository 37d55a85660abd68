"""What the log knows of a record: its keys for finding it, and the bytes it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One event as it is stored, with the keys it is found by. A tuple, made in a third of a dataclass's time."""

    event_id: bytes
    """UUIDv7, 16 bytes."""
    payload: bytes
    """The event as the producer serialised it; stored and hashed byte for byte."""
    time_ns: int = 0
    trace_id: bytes = b""
    request_id: str = ""
    tenant: str = ""
    subject: str = ""
    model: str = ""
    type: int = 0
    outcome: int = 0
    ingress: int = 0
    object: str = ""
    action: str = ""
    reason: str = ""
    service: str = ""
    http_status: int = 0


class Place(NamedTuple):
    """Where a record stands."""

    sequence: int
    segment: int
    """First sequence of its segment."""
    offset: int
    """In the segment, in bytes."""


Row = tuple[Any, ...]
"""What the index keeps of a record, in the order of `COLUMNS`: its place, and its keys without the payload.

A plain tuple of plain values, which the garbage collector no longer looks at after the first time: a busy log holds a
hundred thousand, and a look at all of them would hold up the answers behind it for tens of milliseconds.
"""
_AFTER_PAYLOAD = Record._fields.index("payload") + 1
COLUMNS = (*Place._fields, *(name for name in Record._fields if name != "payload"))


def row(place: tuple[int, int, int], record: Record) -> Row:
    """A record as the index keeps it."""
    return (*place, record.event_id, *record[_AFTER_PAYLOAD:])


class Committed(NamedTuple):
    """Records that are on disk, in the order of their sequences."""

    rows: list[Row]
    leaves: list[bytes]
    """Their leaf hashes."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What to look for; an empty field matches all."""

    tenant: str = ""
    subject: str = ""
    model: str = ""
    request_id: str = ""
    type: int = 0
    outcome: int = 0
    ingress: int = 0
    start_ns: int = 0
    end_ns: int = 0
    object: str = ""
    action: str = ""
    reason: str = ""
    service: str = ""
    trace_id: bytes = b""
    http_status_class: int = 0
    """The first digit of the HTTP status."""


@dataclass(frozen=True, slots=True)
class Logged:
    """A record and its place in the log."""

    sequence: int
    payload: bytes

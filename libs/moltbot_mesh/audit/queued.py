"""What a producer has in memory: events that wait to be spilled, and the count of those that had to be dropped."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot.audit.v1 import audit_pb2

if TYPE_CHECKING:
    import asyncio

    from moltbot_mesh.errors import MoltbotError


@dataclass(slots=True)
class Queued:
    """An event that waits."""

    event: audit_pb2.AuditEvent
    counter: int
    """Its number in this epoch."""
    durable: asyncio.Future[None] | None = None
    """Set when it is on disk, for one who waits."""

    def settle(self, error: MoltbotError | None) -> None:
        """Tell whoever waits."""
        if self.durable is None or self.durable.done():
            return
        if error is None:
            self.durable.set_result(None)
        else:
            self.durable.set_exception(error)


class Gap:
    """Events that were dropped: counted at once, told in a record when there is room for it. Any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._untold = 0
        self._first = 0
        self._last = 0
        self.dropped = 0
        """In all."""

    def __bool__(self) -> bool:
        return self._untold > 0

    def add(self, counter: int) -> int:
        """Count a dropped event; how many there are in all."""
        with self._lock:
            self._first = min(self._first, counter) if self._untold else counter
            self._last = max(self._last, counter) if self._untold else counter
            self._untold += 1
            self.dropped += 1
            return self.dropped

    def take(self, service: str) -> audit_pb2.AuditEvent | None:
        """The record of those that were not told yet, if any."""
        with self._lock:  # all three together: the next one dropped begins anew
            untold, first, last = self._untold, self._first, self._last
            self._untold = 0
        return gap_event(service, first, last, untold) if untold else None


def gap_event(
    service: str, first: int, last: int | None, dropped: int | None, epoch: int = 0, reason: str = "AUDIT_UNAVAILABLE"
) -> audit_pb2.AuditEvent:
    """The record by which a producer declares that events of its are not in the log.

    Args:
        service: Its name.
        first: The lowest of their counters.
        last: The highest; None if that is not known.
        dropped: How many; None if that is not known.
        epoch: They were counted in; 0 for the one in which the record is.
        reason: Why, from `ErrorReason`.
    """
    event = audit_pb2.AuditEvent(
        type=audit_pb2.EVENT_TYPE_GAP,
        outcome=audit_pb2.OUTCOME_FAILED,
        subject=service,
        action="drop",
        object="audit events",
        reason=reason[:64],
        attributes={
            "dropped": "unknown" if dropped is None else str(dropped),
            "first_counter": str(first),
            "last_counter": "unknown" if last is None else str(last),
        },
    )
    if epoch:
        event.attributes["epoch"] = str(epoch)
    return event

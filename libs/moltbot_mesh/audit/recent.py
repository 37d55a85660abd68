"""The newest events of a spill, in memory until they are sent: most are sent before anybody must read them again."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Position(NamedTuple):
    """A place between two events of a spill."""

    file: int
    """The file, by the number of its first event."""
    offset: int
    """In it, in bytes."""
    number: int
    """Of the next event."""


class Recent:
    """Events in order of their numbers. Any thread may add and take.

    Args:
        limit_bytes: Most that is kept. Beyond it all is forgotten: whoever is so far behind reads the disk.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._events: deque[tuple[int, bytes, Position]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, start: Position, payloads: Sequence[bytes], frames: Sequence[bytes]) -> None:
        """Keep events that were written.

        Args:
            start: Where the first stands.
            payloads: The events.
            frames: As they lie on disk, one each.
        """
        file, offset, number = start
        with self._lock:
            for payload, frame in zip(payloads, frames, strict=True):
                offset += len(frame)
                self._events.append((number, payload, Position(file, offset, number + 1)))
                number += 1
                self._bytes += len(payload)
            if self._bytes > self._limit_bytes:
                self._events.clear()
                self._bytes = 0

    def take(self, start: Position, most: int, most_bytes: int) -> tuple[list[bytes], Position] | None:
        """Take events out, those before them too.

        Args:
            start: From where.
            most: How many at most.
            most_bytes: Of how many bytes at most, unless the first alone has more.

        Returns:
            The events and the place behind them; `None` if the next one is not here.
        """
        found: list[bytes] = []
        total = 0
        with self._lock:
            events = self._events
            while events and events[0][0] < start.number:
                self._bytes -= len(events.popleft()[1])
            while events and len(found) < most and events[0][0] == start.number:
                payload = events[0][1]
                total += len(payload)
                if found and total > most_bytes:
                    break
                found.append(payload)
                self._bytes -= len(payload)
                start = events.popleft()[2]
        return (found, start) if found else None

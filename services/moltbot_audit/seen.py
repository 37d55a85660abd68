"""Whether an event stands in the log already.

Ids are UUIDv7, ordered by time: one that is newer than every id this has forgotten, and is not remembered, is new. Only
the others are looked for in the index. Any clock may be wrong: that costs look-ups, never an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moltbot_audit.records import COLUMNS, Place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moltbot_audit.backlog import Backlog
    from moltbot_audit.index import Index
    from moltbot_audit.records import Row

_GENERATION = 20_000
_ID = COLUMNS.index("event_id")
_PLACE = slice(len(Place._fields))


class Seen:
    """The newest ids and their places. For one thread.

    Args:
        index: Knows the others; nothing in the log is missing in it now.
        indexing: What waits for the index: what is below its `reached` may be forgotten.
    """

    def __init__(self, index: Index, indexing: Backlog) -> None:
        self._index = index
        self._indexing = indexing
        self._forgotten = index.newest_event_id()
        """No id that was forgotten is larger."""
        self._young: dict[bytes, Row] = {}
        """By id: the beginnings of rows, which are the values of a `Place`."""
        self._old: dict[bytes, Row] = {}

    def find(self, event_ids: Iterable[bytes]) -> dict[bytes, Place]:
        """The places of those that stand in the log."""
        found: dict[bytes, Place] = {}
        unsure: list[bytes] = []
        young, old, forgotten = self._young, self._old, self._forgotten
        for event_id in event_ids:
            place = young.get(event_id) or old.get(event_id)
            if place is not None:
                found[event_id] = Place(*place)
            elif event_id <= forgotten:
                unsure.append(event_id)
        return found | self._index.places(unsure) if unsure else found

    def add(self, rows: Iterable[Row]) -> None:
        """Remember records, until the index has them and newer ones have taken their place."""
        self._young.update((row[_ID], row[_PLACE]) for row in rows)
        if len(self._young) < _GENERATION:
            return
        if self._old and Place(*next(reversed(self._old.values()))).sequence >= self._indexing.reached:
            return
        self._forgotten = max(self._forgotten, max(self._old, default=b""))
        self._old, self._young = self._young, {}

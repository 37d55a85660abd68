"""What each block of the index holds, so that a query passes over the blocks that have nothing for it.

An index of every row by every field would cost more than all else that the log does with a record. A block notes each
value once, and its span of time: a value that is rare is found in a few blocks, one that is everywhere in the newest.
Where hardly two rows have the same value, the block may hold any. What has left a block since may still be noted: that
costs a look, never an answer.

Source: block-range and set indexes, as PostgreSQL's BRIN and ClickHouse's data-skipping indexes (`minmax`, `set`).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from moltbot_audit.records import COLUMNS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from moltbot_audit.records import Filter, Row

ROWS = 4096
"""Of a block: those whose sequences have the same quotient by it."""
PART_ROWS = 16 * ROWS
"""Rows whose traces and requests lie together in the indexes of these. Such ids are random: in one tree of the whole
log a batch would change about as many pages as it has rows, and the database's checkpoints hold up the log's own
writes. A look-up asks every part, each for a page or two."""
FIELDS = ("tenant", "subject", "model", "object", "action", "reason", "service", "type", "outcome", "ingress")
"""Of records and filters alike; `held.field` is the place in here."""
_STATUS_CLASS = len(FIELDS)
_SEQUENCE, _TIME, _STATUS = (COLUMNS.index(name) for name in ("sequence", "time_ns", "http_status"))
_COLUMN_OF_FIELD = tuple(enumerate(COLUMNS.index(name) for name in FIELDS))
_MOST_VALUES = 1024
ANY = 0
"""As a value: the block may hold any. No field has it otherwise: what is empty is not noted."""
_HOLDS = "block IN (SELECT block FROM held WHERE field = ? AND value IN (?, ?))"
_ANY_ALONE = frozenset({ANY})
_EMPTY = frozenset({"", 0})
SCHEMA = """
-- parts: those that have rows
CREATE TABLE IF NOT EXISTS blocks (
    block INTEGER PRIMARY KEY, oldest_ns INTEGER NOT NULL, newest_ns INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS parts (part INTEGER PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS held (
    field INTEGER NOT NULL, value ANY NOT NULL, block INTEGER NOT NULL,
    PRIMARY KEY (field, value, block)) STRICT, WITHOUT ROWID;
"""


class Blocks:
    """Notes what blocks hold, within the transaction of whoever adds the rows.

    Args:
        db: With the schema.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._block = -1
        self._noted: set[tuple[int, str | int]] = set()
        """Of the newest block."""

    def add(self, rows: Sequence[Row]) -> None:
        """Note rows."""
        for block, of_block in itertools.groupby(rows, lambda row: row[_SEQUENCE] // ROWS):
            if block != self._block:
                self._db.execute("INSERT OR IGNORE INTO parts VALUES (?)", (block * ROWS // PART_ROWS,))
                self._block, self._noted = block, set()
            self._add(block, list(of_block))

    def _add(self, block: int, rows: Sequence[Row]) -> None:
        times_ns = [row[_TIME] for row in rows]
        self._db.execute(
            "INSERT INTO blocks VALUES (?, ?, ?) ON CONFLICT (block) DO UPDATE SET"
            " oldest_ns = min(oldest_ns, excluded.oldest_ns), newest_ns = max(newest_ns, excluded.newest_ns)",
            (block, min(times_ns), max(times_ns)),
        )
        found: set[tuple[int, str | int]] = set()
        for field, column in _COLUMN_OF_FIELD:
            values = {row[column] for row in rows} - _EMPTY
            found.update((field, value) for value in (values if len(values) <= _MOST_VALUES else _ANY_ALONE))
        statuses = {row[_STATUS] for row in rows}
        found.update((_STATUS_CLASS, status // 100) for status in statuses if status)
        fresh = found - self._noted
        self._db.executemany("INSERT OR IGNORE INTO held VALUES (?, ?, ?)", [(*one, block) for one in fresh])
        self._noted |= fresh

    def forget(self) -> None:
        """The transaction was taken back: what it noted is not there."""
        self._block, self._noted = -1, set()


def conditions(wanted: Filter) -> tuple[list[str], list[str | int]]:
    """What `blocks` must fulfil for a block to have rows that a filter matches: clauses, and values of their marks."""
    clauses: list[str] = []
    values: list[str | int] = []
    asked = [(field, getattr(wanted, name)) for field, name in enumerate(FIELDS)]
    for field, value in [*asked, (_STATUS_CLASS, wanted.http_status_class)]:
        if value:
            clauses.append(_HOLDS)
            values += (field, value, ANY)
    if wanted.start_ns:
        clauses.append("newest_ns >= ?")
        values.append(wanted.start_ns)
    if wanted.end_ns:
        clauses.append("oldest_ns < ?")
        values.append(wanted.end_ns)
    return clauses, values

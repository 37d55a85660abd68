"""The registry's database file: how it is opened and written.

Source: https://www.sqlite.org/wal.html.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

_CHUNKS = (512, 64, 8, 1)
"""Rows of one statement: SQLite inserts them without the interpreter's lock, which each statement waits for anew."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the database file, with a write-ahead log."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    return db


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Generator[None]:
    """Commit what is written while the context is open, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk ends it by itself
            db.execute("ROLLBACK")
        raise


def insert(db: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]], conflict: str = "") -> int:
    """Insert rows, which all have the same columns; how many were entered."""
    entered = start = 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            marks = ",".join([f"({','.join('?' * len(rows[0]))})"] * size)
            values = list(itertools.chain.from_iterable(rows[start : start + size]))
            entered += db.execute(f"INSERT {into} VALUES {marks} {conflict}", values).rowcount  # noqa: S608 - our own names
            start += size
    return entered

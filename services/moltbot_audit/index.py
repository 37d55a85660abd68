"""The query index: SQLite, written behind the log and rebuilt from it at any time. Truth is the segments."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
import time
from array import array
from typing import TYPE_CHECKING

from moltbot_audit import blocks
from moltbot_audit.records import COLUMNS, Place
from moltbot_mesh.errors import DeadlineExceeded, OutOfRange

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from moltbot_audit.records import Filter, Row

_VERSION = 3
"""Of the schema; a file with another one is thrown away like one that is damaged."""
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY, event_id BLOB NOT NULL UNIQUE, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
    time_ns INTEGER NOT NULL, trace_id BLOB NOT NULL, request_id TEXT NOT NULL, tenant TEXT NOT NULL,
    subject TEXT NOT NULL, model TEXT NOT NULL, type INTEGER NOT NULL, outcome INTEGER NOT NULL,
    ingress INTEGER NOT NULL, object TEXT NOT NULL, action TEXT NOT NULL, reason TEXT NOT NULL,
    service TEXT NOT NULL, http_status INTEGER NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS by_trace ON events (sequence / {blocks.PART_ROWS}, trace_id) WHERE trace_id <> x'';
CREATE INDEX IF NOT EXISTS by_request ON events (sequence / {blocks.PART_ROWS}, request_id) WHERE request_id <> '';
"""
_INSERT = f"INSERT OR IGNORE INTO events ({','.join(COLUMNS)}) VALUES "  # noqa: S608 - our own names
_MARKS = f"({','.join('?' * len(COLUMNS))})"
_PLACES = "SELECT sequence, segment, offset"
_BY_BLOCK = f"""{_PLACES} FROM blocks CROSS JOIN events NOT INDEXED
    ON sequence >= block * {blocks.ROWS} AND sequence < min(?, (block + 1) * {blocks.ROWS}) WHERE block <= ?"""
"""One upper bound, so that SQLite takes no other one and reads to the end of the log for every block."""
_FROM_TRACE, _FROM_REQUEST = (
    f"""FROM parts CROSS JOIN events INDEXED BY {index}
    ON sequence / {blocks.PART_ROWS} = +part AND {id_} = ? WHERE {id_} <> {none}"""
    for index, id_, none in (("by_trace", "trace_id", "x''"), ("by_request", "request_id", "''"))
)
"""`+part` has no affinity, like the expression that is indexed, and WHERE says what the index is partial by: without
either, SQLite reads all of it."""
_OLDEST_OF_TENANT = f"""SELECT min(sequence) FROM events WHERE tenant = ? AND sequence >= {blocks.ROWS} * (
    SELECT min(block) FROM held WHERE field = {blocks.FIELDS.index("tenant")} AND value IN (?, {blocks.ANY}))"""  # noqa: S608 - our own names
_CHUNKS = (512, 64, 8, 1)
"""Rows of one statement: SQLite inserts them without the interpreter's lock."""
_QUERY_S = 10.0
_MOST_OF_A_TRACE = 10_000


class Index:
    """Finds records. One thread adds; any may read.

    Args:
        path: The database file. One that is damaged, or of another schema, is thrown away: `next_sequence` says what to
            add again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = self._open()
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._db = self._open()
        path.chmod(0o600)
        self._blocks = blocks.Blocks(self._db)
        self._finder_lock, self._reader_lock = threading.Lock(), threading.Lock()
        self._finder, self._reader = self._connect(), self._connect()
        """For look-ups by id, and by sequence and trace; a query gets a connection of its own."""

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=10.0, isolation_level=None, check_same_thread=False)

    def _open(self) -> sqlite3.Connection:
        db = self._connect()
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")  # a power failure may cost the newest rows, never the file
            db.execute("PRAGMA cache_size=-32768")  # KiB; more than the newest part of each index
            db.execute("PRAGMA wal_autocheckpoint=1000")  # pages; the log's own writes wait for a checkpoint's
            _make_schema(db)
            db.execute("SELECT max(sequence), max(event_id) FROM events").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def next_sequence(self) -> int:
        """The first sequence that is not indexed."""
        (last,) = self._db.execute("SELECT max(sequence) FROM events").fetchone()
        return 0 if last is None else int(last) + 1

    def newest_event_id(self) -> bytes:
        """The largest of all ids; UUIDv7 are ordered by time."""
        (newest,) = self._db.execute("SELECT max(event_id) FROM events").fetchone()
        return newest or b""

    def clear_from(self, sequence: int) -> None:
        """Forget records that the log does not have."""
        self._db.execute("DELETE FROM events WHERE sequence >= ?", (sequence,))
        self._blocks.forget()

    def clear_below(self, sequence: int) -> None:
        """Forget records that have expired, a part at a time: whoever adds waits for no more."""
        with contextlib.closing(self._connect()) as db:
            (oldest,) = db.execute("SELECT min(sequence) FROM events").fetchone()
            for end in range(oldest or 0, sequence, blocks.PART_ROWS):
                last = min(sequence, end + blocks.PART_ROWS)
                db.execute("DELETE FROM events WHERE sequence < ?", (last,))
            db.execute("DELETE FROM parts WHERE part < ?", (sequence // blocks.PART_ROWS,))
            db.execute("DELETE FROM blocks WHERE block < ?", (sequence // blocks.ROWS,))
            db.execute("DELETE FROM held WHERE block < ?", (sequence // blocks.ROWS,))

    def add(self, rows: Sequence[Row]) -> None:
        """Index records: all or none."""
        self._db.execute("BEGIN")
        try:
            start = 0
            for size in _CHUNKS:
                while len(rows) - start >= size:
                    values = list(itertools.chain.from_iterable(rows[start : start + size]))
                    self._db.execute(_INSERT + ",".join([_MARKS] * size), values)
                    start += size
            self._blocks.add(rows)
            self._db.execute("COMMIT")
        except BaseException:
            self._blocks.forget()
            if self._db.in_transaction:  # a COMMIT that fails may have taken it back
                self._db.execute("ROLLBACK")
            raise

    def places(self, event_ids: Sequence[bytes]) -> dict[bytes, Place]:
        """Places of those events that are indexed. The log itself asks: no other look-up holds this one up."""
        found: dict[bytes, Place] = {}
        for start in range(0, len(event_ids), 500):
            ids = event_ids[start : start + 500]
            marks = ",".join("?" * len(ids))
            statement = f"SELECT event_id, sequence, segment, offset FROM events WHERE event_id IN ({marks})"  # noqa: S608 - marks and our own names
            with self._finder_lock:
                found |= {row[0]: Place(*row[1:]) for row in self._finder.execute(statement, ids)}
        return found

    def place_at(self, sequence: int) -> Place | None:
        """The place of a record."""
        with self._reader_lock:
            row = self._reader.execute(
                "SELECT sequence, segment, offset FROM events WHERE sequence = ?", (sequence,)
            ).fetchone()
        return Place(*row) if row else None

    def following(self, sequence: int, limit: int) -> list[Place]:
        """Places of the records from a sequence on."""
        with self._reader_lock:
            rows = self._reader.execute(
                "SELECT sequence, segment, offset FROM events WHERE sequence >= ? ORDER BY sequence LIMIT ?",
                (sequence, limit),
            ).fetchall()
        return [Place(*row) for row in rows]

    def trace(self, trace_id: bytes, tenant: str = "") -> list[Place]:
        """Places of a trace's events, of one tenant or (empty) of all, in order of time.

        Raises:
            OutOfRange: They are more than 10,000.
        """
        statement, values = _of_trace("SELECT time_ns, sequence, segment, offset", trace_id, tenant)
        with self._bounded() as db:
            rows = db.execute(f"{statement} LIMIT ?", (*values, _MOST_OF_A_TRACE + 1)).fetchall()
        if len(rows) > _MOST_OF_A_TRACE:
            raise OutOfRange(
                f"the trace has more than {_MOST_OF_A_TRACE:,} events; page through them with Query and its trace_id,"
                f" or write them out with `moltbot audit export --trace {trace_id.hex()}`"
            )
        return [Place(*row[1:]) for row in sorted(rows)]

    def sequences_of_trace(self, trace_id: bytes, tenant: str = "") -> array[int]:
        """Sequences of all events of a trace, of one tenant or (empty) of all, in order; read a page at a time."""
        statement, values = _of_trace("SELECT sequence", trace_id, tenant)
        found: array[int] = array("q")
        while True:
            following = found[-1] + 1 if found else 0
            with self._reader_lock:  # others look up between two pages
                rows = self._reader.execute(
                    f"{statement} AND sequence >= ? ORDER BY part, sequence LIMIT ?",
                    (*values, following, _MOST_OF_A_TRACE),
                ).fetchall()
            found.extend(row[0] for row in rows)
            if len(rows) < _MOST_OF_A_TRACE:
                return found

    def oldest_of(self, tenant: str, trace_id: bytes) -> int | None:
        """The first record of a trace or, without one, of a tenant; None if there is none."""
        if trace_id:
            statement, values = f"SELECT sequence {_FROM_TRACE} ORDER BY part, sequence LIMIT 1", (trace_id,)
        else:
            statement, values = _OLDEST_OF_TENANT, (tenant, tenant)
        with self._reader_lock:
            row = self._reader.execute(statement, values).fetchone()
        return row[0] if row else None

    def query(self, wanted: Filter, before: int, limit: int) -> list[Place]:
        """Places of matching events, newest first, with a sequence below `before`.

        Raises:
            DeadlineExceeded: It took longer than ten seconds.
        """
        statement, values = _search(wanted, before)
        with self._bounded() as db:
            return [Place(*row) for row in db.execute(f"{statement} LIMIT ?", (*values, limit))]

    @contextlib.contextmanager
    def _bounded(self) -> Generator[sqlite3.Connection]:
        deadline_s = time.monotonic() + _QUERY_S
        with contextlib.closing(self._connect()) as db:
            db.set_progress_handler(lambda: time.monotonic() > deadline_s, 10_000)
            try:
                yield db
            except sqlite3.OperationalError as error:
                if "interrupted" not in str(error):
                    raise
                raise DeadlineExceeded(
                    f"the query took longer than {_QUERY_S:.0f} s; ask for a trace, a request or a shorter time, or"
                    " search the whole log with `moltbot audit sql`"
                ) from None

    def close(self) -> None:
        """Close the database."""
        with self._reader_lock, self._finder_lock:
            self._reader.close()
            self._finder.close()
        self._db.close()


def _make_schema(db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != _VERSION and (version or db.execute("SELECT 1 FROM sqlite_schema").fetchone()):
        raise sqlite3.DatabaseError(f"the schema is of version {version}")
    db.executescript(f"BEGIN; {_SCHEMA} {blocks.SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT")


def _of_trace(select: str, trace_id: bytes, tenant: str) -> tuple[str, list[object]]:
    """A statement for the events of a trace, and the values of its marks."""
    statement = f"{select} {_FROM_TRACE}"
    return (f"{statement} AND tenant = ?", [trace_id, tenant]) if tenant else (statement, [trace_id])


def _search(wanted: Filter, before: int) -> tuple[str, list[object]]:
    """The statement that finds what a filter matches, newest first, and the values of its marks.

    A request and a trace have indexes of their own; all else is looked for block by block.
    """
    clauses: list[str] = []
    values: list[object] = []
    for column in blocks.FIELDS:
        if value := getattr(wanted, column):
            clauses.append(f"{column} = ?")
            values.append(value)
    if wanted.http_status_class:
        clauses.append("http_status / 100 = ?")
        values.append(wanted.http_status_class)
    if wanted.start_ns:
        clauses.append("time_ns >= ?")
        values.append(wanted.start_ns)
    if wanted.end_ns:
        clauses.append("time_ns < ?")
        values.append(wanted.end_ns)
    if wanted.request_id or wanted.trace_id:
        source, value = (_FROM_REQUEST, wanted.request_id) if wanted.request_id else (_FROM_TRACE, wanted.trace_id)
        if wanted.request_id and wanted.trace_id:
            clauses.append("trace_id = ?")
            values.append(wanted.trace_id)
        where = " AND ".join([f"{_PLACES} {source}", "sequence < ?", *clauses])
        return f"{where} ORDER BY part DESC, sequence DESC", [value, before, *values]
    promising, of_blocks = blocks.conditions(wanted)
    where = " AND ".join([_BY_BLOCK, *promising, *clauses])
    return f"{where} ORDER BY block DESC, sequence DESC", [before, before // blocks.ROWS, *of_blocks, *values]

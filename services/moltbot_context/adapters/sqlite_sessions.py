"""Sessions in SQLite: write-ahead log, one writer thread, a turn durable (fsync) before it is acknowledged.

Source: https://www.sqlite.org/wal.html; `synchronous=FULL` syncs the log at each commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog

from moltbot_context.adapters.turn_codec import decode_messages, encode_messages
from moltbot_context.turns import Session, Turn
from moltbot_mesh.errors import AlreadyExists, DataLoss, MoltbotError, NotFound, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

T = TypeVar("T")
log = structlog.get_logger("moltbot.context")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, create_time_s REAL NOT NULL,
    update_time_s REAL NOT NULL, turn_count INTEGER NOT NULL DEFAULT 0, labels TEXT NOT NULL DEFAULT '{}',
    UNIQUE (tenant, name)) STRICT;
CREATE INDEX IF NOT EXISTS sessions_newest ON sessions (tenant, update_time_s DESC);
CREATE TABLE IF NOT EXISTS turns (
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE, sequence INTEGER NOT NULL,
    turn_id TEXT NOT NULL, digest BLOB NOT NULL, messages BLOB NOT NULL, request_id TEXT NOT NULL,
    model TEXT NOT NULL, create_time_s REAL NOT NULL,
    PRIMARY KEY (session, sequence), UNIQUE (session, turn_id)) STRICT, WITHOUT ROWID;
"""


class SqliteSessions:
    """Sessions and turns of all tenants.

    Args:
        path: The database file.
        max_sessions: Sessions that a tenant may have.
    """

    def __init__(self, path: Path, max_sessions: int) -> None:
        self._path = path
        self._max_sessions = max_sessions
        self._writer = ThreadPoolExecutor(1, "sessions-write")
        self._reader = ThreadPoolExecutor(1, "sessions-read")
        self._write_db: sqlite3.Connection
        self._read_db: sqlite3.Connection

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Keep the database open while the context is.

        Raises:
            DataLoss: The file is no database.
            Unavailable: The disk fails.
        """
        async with contextlib.AsyncExitStack() as stack:
            self._write_db = await self._connected(self._writer, stack)
            await self._in_thread(self._writer, lambda: self._write_db.executescript(_SCHEMA))
            self._read_db = await self._connected(self._reader, stack)
            self._path.chmod(0o600)
            yield

    async def _connected(self, thread: ThreadPoolExecutor, stack: contextlib.AsyncExitStack) -> sqlite3.Connection:
        """A connection of one thread; both end with the stack."""

        def connect() -> sqlite3.Connection:
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=10.0)
            try:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                db.execute("PRAGMA foreign_keys=ON")
            except BaseException:
                db.close()
                raise
            return db

        stack.callback(thread.shutdown)
        db = await self._in_thread(thread, connect)
        stack.push_async_callback(self._in_thread, thread, db.close)
        return db

    async def _in_thread(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        except sqlite3.Error as error:
            raise self._refusal(error) from error

    def _refusal(self, error: sqlite3.Error) -> MoltbotError:
        """What a caller may know of it; the log has the rest."""
        log.error("sessions failed", path=str(self._path), error=str(error))
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:  # the low byte is the primary code
            case sqlite3.SQLITE_FULL:
                return ResourceExhausted("the sessions' disk is full; free some space, nothing else is needed")
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return DataLoss(f"{self._path.name} is damaged; put a backup in its place, or remove it to begin anew")
            case _:
                return Unavailable("the sessions' database does not answer; try again", retry_after_s=1.0)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def transaction() -> T:
            db = self._write_db
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # some errors end it by themselves; one left open would refuse all that follows
                    db.execute("ROLLBACK")
                raise
            return result

        return await self._in_thread(self._writer, transaction)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._in_thread(self._reader, lambda: work(self._read_db))

    async def create(self, tenant: str, name: str, labels: dict[str, str]) -> Session:
        """Create a session, or return the one that stands.

        Raises:
            AlreadyExists: It stands with other labels.
            ResourceExhausted: The tenant has too many.
        """

        def work(db: sqlite3.Connection) -> Session:
            self._ensure(db, tenant, name, labels)
            session = _session(db, tenant, name)
            if session.labels != labels:
                raise AlreadyExists(f"session {name!r} stands with other labels")
            return session

        return await self._write(work)

    def _ensure(self, db: sqlite3.Connection, tenant: str, name: str, labels: dict[str, str]) -> int:
        found = db.execute("SELECT id FROM sessions WHERE tenant = ? AND name = ?", (tenant, name)).fetchone()
        if found is not None:
            return int(found[0])
        (count,) = db.execute("SELECT count(*) FROM sessions WHERE tenant = ?", (tenant,)).fetchone()
        if count >= self._max_sessions:
            raise ResourceExhausted(f"the tenant has {count} sessions already; delete some")
        now_s = time.time()
        encoded = msgspec.json.encode(labels).decode()
        cursor = db.execute(
            "INSERT INTO sessions (tenant, name, create_time_s, update_time_s, labels) VALUES (?, ?, ?, ?, ?)",
            (tenant, name, now_s, now_s, encoded),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    async def get(self, tenant: str, name: str) -> Session:
        """Return a session.

        Raises:
            NotFound: The tenant has none of this name.
        """
        return await self._read(lambda db: _session(db, tenant, name))

    async def list(self, tenant: str, limit: int, offset: int) -> list[Session]:
        """Sessions of a tenant, newest first."""

        def work(db: sqlite3.Connection) -> list[Session]:
            rows = db.execute(
                "SELECT name, tenant, create_time_s, update_time_s, turn_count, labels FROM sessions WHERE tenant = ? "
                "ORDER BY update_time_s DESC, id DESC LIMIT ? OFFSET ?",
                (tenant, limit, offset),
            )
            return [_session_of(row) for row in rows]

        return await self._read(work)

    async def delete(self, tenant: str, name: str) -> int:
        """Delete a session.

        Returns:
            How many turns are gone; 0 also if there was no such session.
        """

        def work(db: sqlite3.Connection) -> int:
            key = (tenant, name)
            row = db.execute("SELECT turn_count FROM sessions WHERE tenant = ? AND name = ?", key).fetchone()
            db.execute("DELETE FROM sessions WHERE tenant = ? AND name = ?", key)
            return 0 if row is None else int(row[0])

        return await self._write(work)

    async def append(self, tenant: str, name: str, turn: Turn) -> Turn:
        """Add a turn, durably; creates the session if it is not there.

        Returns:
            The turn as it stands, also if it was there before.

        Raises:
            AlreadyExists: A turn of this id stands with another body.
        """
        body = encode_messages(turn.messages)
        digest = hashlib.sha256(b"\0".join((body, turn.request_id.encode(), turn.model.encode()))).digest()

        def work(db: sqlite3.Connection) -> Turn:
            session = self._ensure(db, tenant, name, {})
            row = db.execute(
                "SELECT sequence, create_time_s, digest FROM turns WHERE session = ? AND turn_id = ?",
                (session, turn.turn_id),
            ).fetchone()
            if row is not None:
                if row[2] != digest:
                    raise AlreadyExists(f"turn {turn.turn_id} stands with another body", reason="IDEMPOTENCY_CONFLICT")
                return Turn(turn.turn_id, turn.messages, turn.request_id, turn.model, row[0], row[1])
            (sequence,) = db.execute("SELECT turn_count FROM sessions WHERE id = ?", (session,)).fetchone()
            now_s = time.time()
            db.execute(
                "INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (session, sequence, turn.turn_id, digest, body, turn.request_id, turn.model, now_s),
            )
            db.execute(
                "UPDATE sessions SET turn_count = turn_count + 1, update_time_s = ? WHERE id = ?", (now_s, session)
            )
            return Turn(turn.turn_id, turn.messages, turn.request_id, turn.model, sequence, now_s)

        return await self._write(work)

    async def turns(self, tenant: str, name: str, limit: int, offset: int) -> list[Turn]:
        """Turns of a session, oldest first; none if there is no such session."""
        return await self._read(lambda db: _turns(db, tenant, name, "ASC", limit, offset))

    async def newest_turns(self, tenant: str, name: str, limit: int) -> list[Turn]:
        """The newest turns of a session, oldest first."""
        found = await self._read(lambda db: _turns(db, tenant, name, "DESC", limit, 0))
        found.reverse()
        return found


def _session(db: sqlite3.Connection, tenant: str, name: str) -> Session:
    row = db.execute(
        "SELECT name, tenant, create_time_s, update_time_s, turn_count, labels FROM sessions "
        "WHERE tenant = ? AND name = ?",
        (tenant, name),
    ).fetchone()
    if row is None:
        raise NotFound(f"no session {name!r}")
    return _session_of(row)


def _session_of(row: tuple[str, str, float, float, int, str]) -> Session:
    name, tenant, create_time_s, update_time_s, turn_count, labels = row
    decoded = msgspec.json.decode(labels, type=dict[str, str])
    return Session(name, tenant, create_time_s, update_time_s, turn_count, decoded)


def _turns(db: sqlite3.Connection, tenant: str, name: str, order: str, limit: int, offset: int) -> list[Turn]:
    rows = db.execute(
        "SELECT turn_id, messages, request_id, model, sequence, t.create_time_s FROM turns t "  # noqa: S608 - ASC or DESC
        "JOIN sessions s ON s.id = t.session WHERE s.tenant = ? AND s.name = ? "
        f"ORDER BY sequence {order} LIMIT ? OFFSET ?",
        (tenant, name, limit, offset),
    )
    return [Turn(row[0], decode_messages(row[1]), *row[2:]) for row in rows]

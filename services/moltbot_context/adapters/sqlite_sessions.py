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

from moltbot_context.turns import Session, StoredCall, StoredMessage, Turn
from moltbot_mesh.errors import AlreadyExists, NotFound, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

T = TypeVar("T")

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


class _Call(msgspec.Struct, array_like=True):
    id: str
    name: str
    arguments: str


class _Message(msgspec.Struct, array_like=True):
    role: str
    content: str
    name: str
    tool_calls: list[_Call]
    tool_call_id: str


_decoder = msgspec.msgpack.Decoder(list[_Message])


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
        self._write_db: sqlite3.Connection | None = None
        self._read_db: sqlite3.Connection | None = None

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Keep the database open while the context is."""
        loop = asyncio.get_running_loop()

        def connect() -> sqlite3.Connection:
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=10.0)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA foreign_keys=ON")
            return db

        write_db: sqlite3.Connection = await loop.run_in_executor(self._writer, connect)
        await loop.run_in_executor(self._writer, write_db.executescript, _SCHEMA)
        read_db: sqlite3.Connection = await loop.run_in_executor(self._reader, connect)
        self._write_db, self._read_db = write_db, read_db
        self._path.chmod(0o600)
        try:
            yield
        finally:
            await loop.run_in_executor(self._reader, read_db.close)
            await loop.run_in_executor(self._writer, write_db.close)
            self._reader.shutdown()
            self._writer.shutdown()

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def transaction() -> T:
            db = self._write_db
            assert db is not None
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db)
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
            return result

        return await asyncio.get_running_loop().run_in_executor(self._writer, transaction)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        assert self._read_db is not None
        return await asyncio.get_running_loop().run_in_executor(self._reader, work, self._read_db)

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
        body = _encode(turn.messages)
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
    return [Turn(row[0], _decode(row[1]), *row[2:]) for row in rows]


def _encode(messages: tuple[StoredMessage, ...]) -> bytes:
    return msgspec.msgpack.encode(
        [
            _Message(
                m.role, m.content, m.name, [_Call(c.id, c.name, c.arguments) for c in m.tool_calls], m.tool_call_id
            )
            for m in messages
        ]
    )


def _decode(body: bytes) -> tuple[StoredMessage, ...]:
    return tuple(
        StoredMessage(
            m.role,
            m.content,
            m.name,
            tuple(StoredCall(c.id, c.name, c.arguments) for c in m.tool_calls),
            m.tool_call_id,
        )
        for m in _decoder.decode(body)
    )

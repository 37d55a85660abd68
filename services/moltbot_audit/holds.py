"""Legal holds: what must neither expire nor be shredded until it is released."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_audit.vault import subject_id
from moltbot_mesh.errors import InvalidArgument, NotFound, Unavailable
from moltbot_mesh.uuid7 import uuid7, uuid_text

if TYPE_CHECKING:
    from pathlib import Path

    from moltbot.audit.v1 import privacy_pb2

_TRACE_ID = re.compile(r"[0-9a-fA-F]{32}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS holds (
    hold_id TEXT PRIMARY KEY, tenant TEXT NOT NULL, data_subject TEXT NOT NULL, trace_id TEXT NOT NULL,
    reason TEXT NOT NULL, placed_by TEXT NOT NULL, place_ns INTEGER NOT NULL, release_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold: on a tenant, a data subject of one, or a trace."""

    hold_id: str
    tenant: str
    data_subject: str
    trace_id: str
    """32 hex digits."""
    reason: str
    placed_by: str
    place_ns: int
    """Nanoseconds since the epoch."""
    release_ns: int = 0
    """0 while it holds."""

    @property
    def body_column(self) -> tuple[str, bytes]:
        """The column of the vault's bodies that it holds, and what in it."""
        if self.trace_id:
            return "trace_id", bytes.fromhex(self.trace_id)
        if self.data_subject:
            return "subject", subject_id(self.tenant, self.data_subject)
        return "tenant", self.tenant.encode()

    def covers(self, body: privacy_pb2.Body) -> bool:
        """Whether it holds a body."""
        if self.trace_id:
            return body.trace_id.hex() == self.trace_id
        return body.tenant == self.tenant and self.data_subject in {"", body.data_subject}


class Holds:
    """All holds. Its methods may be called from any thread.

    Args:
        path: Of the database.

    Raises:
        Unavailable: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise Unavailable(f"{path}: the holds cannot be opened: {error}") from error
        path.chmod(0o600)

    def place(self, tenant: str, data_subject: str, trace_id: str, reason: str, placed_by: str) -> Hold:
        """Place a hold; on disk when this returns.

        Raises:
            InvalidArgument: It names nothing, a subject without its tenant, or no trace.
        """
        if not tenant and not trace_id:
            raise InvalidArgument("a hold names a tenant, a tenant and data_subject, or a trace_id")
        if data_subject and (trace_id or not tenant):
            raise InvalidArgument("a hold on a data_subject names its tenant, and no trace_id")
        if trace_id and not _TRACE_ID.fullmatch(trace_id):
            raise InvalidArgument("trace_id: 32 hex digits are asked for")
        hold = Hold(uuid_text(uuid7()), tenant, data_subject, trace_id.lower(), reason, placed_by, time.time_ns())
        row = (hold.hold_id, tenant, data_subject, hold.trace_id, reason, placed_by, hold.place_ns, 0)
        with self._lock:
            self._db.execute("INSERT INTO holds VALUES (?,?,?,?,?,?,?,?)", row)
        return hold

    def release(self, hold_id: str) -> Hold:
        """End a hold; one that was released stays so.

        Raises:
            NotFound: There is no such hold.
        """
        with self._lock:
            self._db.execute(
                "UPDATE holds SET release_ns = ? WHERE hold_id = ? AND release_ns = 0", (time.time_ns(), hold_id)
            )
            row = self._db.execute("SELECT * FROM holds WHERE hold_id = ?", (hold_id,)).fetchone()
        if row is None:
            raise NotFound(f"there is no hold {hold_id}")
        return Hold(*row)

    def all(self, before: str, limit: int) -> list[Hold]:
        """Holds with an id below `before` (all if it is empty), newest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT * FROM holds WHERE ? = '' OR hold_id < ? ORDER BY hold_id DESC LIMIT ?", (before, before, limit)
            ).fetchall()
        return [Hold(*row) for row in rows]

    def active(self) -> list[Hold]:
        """Holds that were not released."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM holds WHERE release_ns = 0 ORDER BY hold_id").fetchall()
        return [Hold(*row) for row in rows]

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

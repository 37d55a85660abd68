"""The registry: which mark is which request's, and the fingerprint of what was answered, and thought before it.

SQLite with a write-ahead log; every method may be called from any thread. `synchronous=NORMAL`: a killed process loses
nothing; a power cut may lose the last moments' entries, and then a mark still proves tenant and epoch, only not the
request. No text is stored, and no hash of one that could be tried without the key.

Source: https://www.sqlite.org/wal.html.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from moltbot_mesh.errors import AlreadyExists, ResourceExhausted
from moltbot_watermark.database import connect, insert, transaction
from moltbot_watermark.output_rows import BY_MARK, COLUMNS, Output, grams_of, is_exact, output_of, row_of, unpacked
from moltbot_watermark.registry_schema import bring_up
from moltbot_watermark.unicode_mark import MAX_MARK_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from moltbot_watermark.fingerprint import Fingerprint
    from moltbot_watermark.output_kind import OutputKind

_BATCH = 50
"""Entries that are purged in one transaction."""
_INDEX_BATCH = 500
_MATCHES = 10
"""Outputs that are shown for one text."""
_COMMON_GRAM = 64
"""A gram of more outputs than this is a phrase of everybody's and is not counted."""
_DRAWS = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Match:
    """A registered answer beside a text."""

    output: Output
    exact: bool
    """The text is the answer."""
    shared: int
    """Grams that both have."""
    grams: int
    """Grams of the answer."""


class Registry:
    """Marks and outputs of all tenants.

    Args:
        path: The database file; made if it is not there, mode 0600.

    Raises:
        FailedPrecondition: The file is of a later release, or cannot be brought up to date.
    """

    def __init__(self, path: Path) -> None:
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._writer = connect(path)
        path.chmod(0o600)
        try:
            bring_up(self._writer, path)
        except BaseException:
            self._writer.close()
            raise
        self._reader = connect(path)

    def close(self) -> None:
        """Close the database; calls that run are waited for."""
        with self._reading:
            self._reader.close()
        with self._writing:
            self._writer.close()

    def reserve(self, tenant: str, epoch: int, request_id: str) -> tuple[int, int]:
        """Reserve a mark for the answer to a request. Idempotent by request id.

        Returns:
            Mark id and epoch: those given before, if the request has a mark.

        Raises:
            ResourceExhausted: No free id was drawn; the epoch is full.
        """

        def work(db: sqlite3.Connection) -> tuple[int, int]:
            for _ in range(_DRAWS):
                mark_id = 1 + secrets.randbelow(MAX_MARK_ID)
                try:
                    db.execute(
                        "INSERT INTO marks VALUES (?, ?, ?, ?, ?)", (tenant, epoch, mark_id, request_id, time.time())
                    )
                except sqlite3.IntegrityError:
                    query = "SELECT mark_id, epoch FROM marks WHERE tenant = ? AND request_id = ?"
                    found = db.execute(query, (tenant, request_id)).fetchone()
                    if found is not None:
                        return int(found[0]), int(found[1])
                else:
                    return mark_id, epoch
            raise ResourceExhausted(f"tenant {tenant!r}: epoch {epoch} has too many marks; rotate the key")

        return self._write(work)

    def register(self, output: Output, text: Fingerprint) -> None:
        """Bind an answer to its request. Idempotent by audit id, where there is one, and kind.

        Raises:
            AlreadyExists: The audit id is bound to another answer.
        """
        (refused,) = self.register_all([(output, text)])
        if refused is not None:
            raise refused

    def register_all(self, outputs: Sequence[tuple[Output, Fingerprint]]) -> list[AlreadyExists | None]:
        """Bind answers to their requests, each as `register` does, in one transaction.

        Returns:
            For each why it was refused; `None` if it was not.
        """

        def work(db: sqlite3.Connection) -> list[AlreadyExists | None]:
            rows = [row_of(output, text) for output, text in outputs]
            entered = insert(db, "INTO outputs", rows, "ON CONFLICT (tenant, audit_id, kind) DO NOTHING")
            if entered == len(rows):
                return [None] * len(rows)
            return [_conflict(db, output, text) for output, text in outputs]

        return self._write(work)

    def index(self) -> int:
        """Enter the grams of new outputs into the index: many at once cost a third of what each would alone.

        Returns:
            How many outputs were entered; 0 when there are no more.
        """

        def work(db: sqlite3.Connection) -> int:
            query = (
                "SELECT id, grams FROM outputs WHERE id > (SELECT output FROM indexed) "  # noqa: S608 - a constant
                f"ORDER BY id LIMIT {_INDEX_BATCH}"
            )
            rows = db.execute(query).fetchall()
            if rows:
                entries = sorted((gram, output) for output, grams in rows for gram in unpacked(grams))
                insert(db, "OR IGNORE INTO grams", entries)
                db.execute("UPDATE indexed SET output = ?", (rows[-1][0],))
            return len(rows)

        return self._write(work)

    def request_of(self, tenant: str, epoch: int, mark_id: int) -> tuple[str, float]:
        """The request that a mark was reserved for, and when; empty and 0 if it is not known."""
        query = "SELECT request_id, create_time_s FROM marks WHERE tenant = ? AND epoch = ? AND mark_id = ?"
        found = self._read(lambda db: db.execute(query, (tenant, epoch, mark_id)).fetchone())
        return (str(found[0]), float(found[1])) if found is not None else ("", 0.0)

    def marked(
        self, tenant: str, epoch: int, mark_id: int, kind: OutputKind, texts: Iterable[Fingerprint]
    ) -> Match | None:
        """The output registered for a mark, beside the closest of some texts; `None` if none was registered."""

        def work(db: sqlite3.Connection) -> Match | None:
            row = db.execute(BY_MARK, (tenant, epoch, mark_id, kind.value)).fetchone()
            if row is None:
                return None
            own = set(grams_of(row))
            return max(
                (Match(output_of(row), is_exact(row, text), len(own & text.grams), len(own)) for text in texts),
                key=lambda match: (match.exact, match.shared),
            )

        return self._read(work)

    def similar(self, text: Fingerprint, tenant: str) -> list[Match]:
        """The outputs that a text is, or shares grams with, the closest first, at most ten.

        Args:
            text: What to look for.
            tenant: Only this tenant's; empty means of all.
        """
        while self.index():
            pass

        def work(db: sqlite3.Connection) -> list[Match]:
            where = "AND tenant = ?" if tenant else ""
            whose = (tenant,) if tenant else ()
            query = f"SELECT {COLUMNS} FROM outputs WHERE exact = ? {where} ORDER BY id DESC LIMIT {_MATCHES}"  # noqa: S608
            equal = db.execute(query, (text.exact, *whose)).fetchall()
            if equal:
                return [Match(output_of(row), True, len(text.grams), len(text.grams)) for row in equal]
            shared = _shared(db, text.grams)
            matches: list[Match] = []
            for output in sorted(shared, key=lambda output: -shared[output])[: 10 * _MATCHES]:
                row = db.execute(f"SELECT {COLUMNS} FROM outputs WHERE id = ? {where}", (output, *whose)).fetchone()  # noqa: S608
                if row is not None and len(matches) < _MATCHES:
                    matches.append(Match(output_of(row), False, shared[output], len(grams_of(row))))
            return matches

        return self._read(work)

    def purge(self, before_s: float) -> int:
        """Delete what is older than its retention.

        Args:
            before_s: Seconds since the Unix epoch.

        Returns:
            How many marks and outputs went.
        """
        gone = 0
        # In small transactions: reservations pass in between.
        for work in (_purge_outputs, _purge_marks):
            count = _BATCH
            while count == _BATCH:
                count = self._write(lambda db, some=work: some(db, before_s))
                gone += count
        return gone

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._writing, transaction(self._writer):
            return work(self._writer)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._reading:
            return work(self._reader)


def _conflict(db: sqlite3.Connection, output: Output, text: Fingerprint) -> AlreadyExists | None:
    """Why an output was refused whose audit id is there; `None` if it is its own."""
    if not output.audit_id:
        return None
    query = "SELECT exact, epoch, mark_id FROM outputs WHERE tenant = ? AND audit_id = ? AND kind = ?"
    found = db.execute(query, (output.tenant, output.audit_id, output.kind.value)).fetchone()
    if tuple(found) == (text.exact, output.epoch, output.mark_id):
        return None
    return AlreadyExists(f"audit id {output.audit_id!r} is bound to another answer", reason="IDEMPOTENCY_CONFLICT")


def _purge_outputs(db: sqlite3.Connection, before_s: float) -> int:
    query = f"SELECT {COLUMNS} FROM outputs WHERE create_time_s < ? LIMIT {_BATCH}"  # noqa: S608 - constants
    rows = db.execute(query, (before_s,)).fetchall()
    for row in rows:
        db.executemany("DELETE FROM grams WHERE gram = ? AND output = ?", [(gram, row[0]) for gram in grams_of(row)])
        db.execute("DELETE FROM outputs WHERE id = ?", (row[0],))
    return len(rows)


def _purge_marks(db: sqlite3.Connection, before_s: float) -> int:
    old = f"SELECT tenant, epoch, mark_id FROM marks WHERE create_time_s < ? LIMIT {_BATCH}"  # noqa: S608 - a constant
    return db.execute(f"DELETE FROM marks WHERE (tenant, epoch, mark_id) IN ({old})", (before_s,)).rowcount  # noqa: S608


def _shared(db: sqlite3.Connection, grams: frozenset[int]) -> dict[int, int]:
    """How many of the grams each output has."""
    counts: dict[int, int] = {}
    for gram in grams:
        query = "SELECT output FROM grams WHERE gram = ? LIMIT ?"
        outputs = db.execute(query, (gram, _COMMON_GRAM + 1)).fetchall()
        if len(outputs) <= _COMMON_GRAM:
            for (output,) in outputs:
                counts[output] = counts.get(output, 0) + 1
    return counts

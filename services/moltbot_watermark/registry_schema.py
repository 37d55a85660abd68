"""The registry's tables, and how a file of an earlier release comes to have them.

A file says in `user_version` which tables it has: 0 before what models think was registered (an audit event had one
output), 1 since (it has one of each kind). A change is one transaction: a process that is killed leaves the file as it
was.

Source: https://www.sqlite.org/lang_altertable.html, section 7 (a constraint goes by way of a new table).
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import structlog

from moltbot_mesh.errors import FailedPrecondition
from moltbot_watermark.database import transaction

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger("moltbot.watermark")

VERSION = 1
_OUTPUTS = """
CREATE TABLE {name} (
    id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, epoch INTEGER NOT NULL, mark_id INTEGER NOT NULL,
    request_id TEXT NOT NULL, audit_id TEXT, trace_id TEXT NOT NULL, model TEXT NOT NULL, create_time_s REAL NOT NULL,
    exact BLOB NOT NULL, characters INTEGER NOT NULL, grams BLOB NOT NULL, kind INTEGER NOT NULL,
    UNIQUE (tenant, audit_id, kind)) STRICT
"""
_OTHERS = (
    """CREATE TABLE IF NOT EXISTS marks (
    tenant TEXT NOT NULL, epoch INTEGER NOT NULL, mark_id INTEGER NOT NULL, request_id TEXT NOT NULL,
    create_time_s REAL NOT NULL, PRIMARY KEY (tenant, epoch, mark_id)) STRICT, WITHOUT ROWID""",
    "CREATE UNIQUE INDEX IF NOT EXISTS marks_by_request ON marks (tenant, request_id)",
    "CREATE INDEX IF NOT EXISTS marks_by_age ON marks (create_time_s)",
    "CREATE INDEX IF NOT EXISTS outputs_by_mark ON outputs (tenant, epoch, mark_id) WHERE mark_id <> 0",
    "CREATE INDEX IF NOT EXISTS outputs_by_exact ON outputs (exact)",
    "CREATE INDEX IF NOT EXISTS outputs_by_age ON outputs (create_time_s)",
    """CREATE TABLE IF NOT EXISTS grams (
    gram INTEGER NOT NULL, output INTEGER NOT NULL, PRIMARY KEY (gram, output)) STRICT, WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS indexed (one INTEGER PRIMARY KEY CHECK (one = 1), output INTEGER NOT NULL) STRICT",
    "INSERT OR IGNORE INTO indexed VALUES (1, 0)",
)
_HAS_OUTPUTS = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'outputs'"
_TO_VERSION_1 = (
    _OUTPUTS.format(name="outputs_new"),
    "INSERT INTO outputs_new SELECT *, 1 FROM outputs ORDER BY id",  # all were answers
    # An id is never given twice, also where the newest outputs are gone: the index goes by it.
    "DELETE FROM sqlite_sequence WHERE name = 'outputs_new'",
    "INSERT INTO sqlite_sequence SELECT 'outputs_new', seq FROM sqlite_sequence WHERE name = 'outputs'",
    "DROP TABLE outputs",
    "ALTER TABLE outputs_new RENAME TO outputs",
)


def bring_up(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or bring those of an earlier release up to date.

    Args:
        db: Open, for writing.
        path: Its file, for errors.

    Raises:
        FailedPrecondition: The file is of a later release, or there is no room to bring it up to date.
    """
    try:
        with transaction(db):
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version > VERSION:
                raise FailedPrecondition(
                    f"{path}: written by a later release (version {version}; this one knows {VERSION}); "
                    "start that release, or move the file away and lose what was registered"
                )
            if not db.execute(_HAS_OUTPUTS).fetchone()[0]:
                db.execute(_OUTPUTS.format(name="outputs"))
            elif version < 1:
                log.info("watermark registry: bringing it up to date", path=str(path), version=VERSION)
                for statement in _TO_VERSION_1:
                    db.execute(statement)
            for statement in _OTHERS:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")
    except sqlite3.OperationalError as error:
        more = (
            "; it needs as much free room again as the file has"
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL
            else ""
        )
        raise FailedPrecondition(f"{path}: cannot be brought up to date: {error}{more}. Nothing was changed") from error

"""A registry of an earlier release is brought up to date, wholly or not at all."""

from __future__ import annotations

import sqlite3
from array import array
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from moltbot_mesh.errors import FailedPrecondition
from moltbot_watermark.database import connect
from moltbot_watermark.fingerprint import fingerprint
from moltbot_watermark.output_kind import OutputKind
from moltbot_watermark.output_rows import BY_MARK, Output
from moltbot_watermark.registry import Registry
from moltbot_watermark.registry_schema import VERSION, bring_up

if TYPE_CHECKING:
    from pathlib import Path

KEY = bytes(range(32))
TEXT = "A river of words runs through the registry and leaves nothing behind but numbers that a key has mixed. " * 2
VERSION_0 = """
CREATE TABLE IF NOT EXISTS marks (
    tenant TEXT NOT NULL, epoch INTEGER NOT NULL, mark_id INTEGER NOT NULL, request_id TEXT NOT NULL,
    create_time_s REAL NOT NULL, PRIMARY KEY (tenant, epoch, mark_id)) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS marks_by_request ON marks (tenant, request_id);
CREATE INDEX IF NOT EXISTS marks_by_age ON marks (create_time_s);
CREATE TABLE IF NOT EXISTS outputs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, epoch INTEGER NOT NULL, mark_id INTEGER NOT NULL,
    request_id TEXT NOT NULL, audit_id TEXT, trace_id TEXT NOT NULL, model TEXT NOT NULL, create_time_s REAL NOT NULL,
    exact BLOB NOT NULL, characters INTEGER NOT NULL, grams BLOB NOT NULL, UNIQUE (tenant, audit_id)) STRICT;
CREATE INDEX IF NOT EXISTS outputs_by_mark ON outputs (tenant, epoch, mark_id) WHERE mark_id > 0;
CREATE INDEX IF NOT EXISTS outputs_by_exact ON outputs (exact);
CREATE INDEX IF NOT EXISTS outputs_by_age ON outputs (create_time_s);
CREATE TABLE IF NOT EXISTS grams (
    gram INTEGER NOT NULL, output INTEGER NOT NULL, PRIMARY KEY (gram, output)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS indexed (one INTEGER PRIMARY KEY CHECK (one = 1), output INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO indexed VALUES (1, 0);
"""
"""As the first releases made it."""
INSERT = "INSERT INTO outputs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of version 0: outputs 1 to 4, of which the newest has been purged; the index goes to 3."""
    path = tmp_path / "registry.sqlite"
    text = fingerprint(TEXT, KEY)
    grams = array("q", sorted(text.grams)).tobytes()
    with closing(connect(path)) as db:
        db.executescript(VERSION_0)
        db.execute("INSERT INTO marks VALUES ('acme', 1, 7, 'request-1', 5.0)")
        for number in range(1, 5):
            exact = text.exact if number == 1 else bytes(16)
            row = ("acme", 1, 7 if number == 1 else 0, f"request-{number}", f"audit-{number}", "", "tiny", 5.0)
            db.execute(INSERT, (number, *row, exact, text.characters, grams))
        db.executemany("INSERT INTO grams VALUES (?, ?)", [(gram, 1) for gram in text.grams])
        db.execute("UPDATE indexed SET output = 3")
        db.execute("DELETE FROM outputs WHERE id = 4")
    return path


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def test_what_was_registered_before_is_found_as_an_answer(path: Path) -> None:
    registry = Registry(path)
    by_mark = registry.marked("acme", 1, 7, OutputKind.ANSWER, [fingerprint(TEXT, KEY)])
    (by_text,) = registry.similar(fingerprint(TEXT, KEY), "acme")
    assert by_mark == by_text
    assert (by_text.exact, by_text.output.audit_id, by_text.output.kind) == (True, "audit-1", OutputKind.ANSWER)
    assert registry.marked("acme", 1, 7, OutputKind.REASONING, [fingerprint(TEXT, KEY)]) is None
    assert registry.reserve("acme", 2, "request-1") == (7, 1)
    registry.close()


def test_an_audit_event_of_before_takes_its_thoughts_and_no_second_answer(path: Path) -> None:
    registry = Registry(path)
    answer = Output("acme", 1, 7, "request-1", "audit-1", "", "tiny", 5.0)
    thoughts = Output("acme", 1, 7, "request-1", "audit-1", "", "tiny", 5.0, OutputKind.REASONING)
    refused = registry.register_all([(answer, fingerprint("other", KEY)), (thoughts, fingerprint("other", KEY))])
    assert [error is None for error in refused] == [False, True]
    registry.close()


def test_ids_go_on_where_they_stood_so_that_what_is_new_is_indexed(path: Path) -> None:
    registry = Registry(path)
    text = "Nothing of this was ever said before, and it is long enough that some of it makes fingerprints of its own."
    registry.register(Output("acme", 1, 0, "request-5", "audit-5", "", "tiny", 6.0), fingerprint(text, KEY))
    assert rows(path, "SELECT max(id) FROM outputs") == [(5,)]
    (match,) = registry.similar(fingerprint(f"Before it. {text}", KEY), "acme")
    assert match.output.audit_id == "audit-5"
    registry.close()


def test_bringing_up_to_date_is_done_once(path: Path) -> None:
    Registry(path).close()
    before = rows(path, "SELECT * FROM outputs"), rows(path, "SELECT sql FROM sqlite_schema ORDER BY name")
    Registry(path).close()
    assert rows(path, "PRAGMA user_version") == [(VERSION,)]
    assert before == (rows(path, "SELECT * FROM outputs"), rows(path, "SELECT sql FROM sqlite_schema ORDER BY name"))
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_file_brought_up_to_date_has_the_tables_of_a_new_one(path: Path, tmp_path: Path) -> None:
    Registry(path).close()
    Registry(tmp_path / "new.sqlite").close()
    names = "SELECT type, name, tbl_name FROM sqlite_schema ORDER BY name"
    columns = "SELECT * FROM pragma_table_info('outputs')"
    for query in (names, columns, "PRAGMA user_version"):
        assert rows(path, query) == rows(tmp_path / "new.sqlite", query)


def test_without_room_nothing_is_changed_and_the_error_says_what_is_needed(path: Path) -> None:
    dump = list(map(tuple, rows(path, "SELECT * FROM outputs")))
    with closing(connect(path)) as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(FailedPrecondition, match=r"full; it needs as much free room"):
            bring_up(db, path)
    assert rows(path, "PRAGMA user_version") == [(0,)]
    assert rows(path, "SELECT * FROM outputs") == dump
    Registry(path).close()
    assert rows(path, "PRAGMA user_version") == [(VERSION,)]


def test_a_file_of_a_later_release_is_left_alone(path: Path) -> None:
    with closing(connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(FailedPrecondition, match="later release"):
        Registry(path)
    assert rows(path, "PRAGMA user_version") == [(VERSION + 1,)]


def test_the_output_of_a_mark_is_found_without_reading_all(path: Path) -> None:
    Registry(path).close()
    with closing(connect(path)) as db:
        plan = db.execute(f"EXPLAIN QUERY PLAN {BY_MARK}", ("acme", 1, 7, 1)).fetchall()
    assert ["outputs_by_mark (tenant=? AND epoch=? AND mark_id=?)" in step[3] for step in plan] == [True]

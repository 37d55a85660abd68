"""Rows of a table by the value of one column: read-only, parameterised, on tables and columns that are allowed by name.

The database is opened read-only, an authoriser refuses everything but reading the allowed columns, and a progress
handler ends a query that takes too long.

Source: https://www.sqlite.org/c3ref/set_authorizer.html.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import msgspec

from moltbot_tool.tools import Effect, Tool, ToolFailure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_TIMEOUT_S = 2.0
_STEPS_BETWEEN_LOOKS = 10_000


def lookup(
    database: Path, tables: Mapping[str, Sequence[str]], table: str, column: str, value: str, max_rows: int
) -> str:
    """Find rows.

    Returns:
        A JSON list of objects, or the text `no rows`.

    Raises:
        ToolFailure: The table or column is not allowed, or the database cannot be read.
    """
    columns = tables.get(table)
    if columns is None:
        raise ToolFailure(f"no table is named {table!r}; there are: {', '.join(sorted(tables)) or 'none'}")
    if column not in columns:
        raise ToolFailure(f"table {table} has no column {column!r}; there are: {', '.join(columns)}")

    def authorise(action: int, first: str | None, second: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_SELECT:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ and first == table and second in columns:
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    until_s = time.monotonic() + _TIMEOUT_S
    # With the table's name before it, a column that is not there is an error; alone, SQLite would read it as a text.
    full = {name: f"{_quoted(table)}.{_quoted(name)}" for name in columns}
    shown = ", ".join(full.values())
    statement = f"SELECT {shown} FROM {_quoted(table)} WHERE {full[column]} = ? LIMIT ?"  # noqa: S608 - allowed names
    try:
        with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as db:
            db.set_authorizer(authorise)
            db.set_progress_handler(lambda: int(time.monotonic() > until_s), _STEPS_BETWEEN_LOOKS)
            rows = db.execute(statement, (value, max_rows)).fetchall()
    except sqlite3.Error as error:
        raise ToolFailure(f"the database cannot be read: {type(error).__name__}") from None
    if not rows:
        return "no rows"
    return msgspec.json.encode([dict(zip(columns, row, strict=True)) for row in rows]).decode()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def sql_lookup(database: Path, tables: Mapping[str, Sequence[str]], max_rows: int) -> Tool:
    """The tool for one database.

    Args:
        database: A SQLite file.
        tables: Allowed tables, each with its allowed columns; at least one of both.
        max_rows: Most rows of an answer.
    """

    def run(arguments: Mapping[str, Any]) -> str:
        return lookup(database, tables, arguments["table"], arguments["column"], arguments["value"], max_rows)

    every_column = sorted({column for columns in tables.values() for column in columns})
    there = "; ".join(f"{table}({', '.join(columns)})" for table, columns in sorted(tables.items()))
    return Tool(
        name="sql_lookup",
        description=f"Look up rows of a table by the value of one column. Tables: {there}.",
        parameters={
            "type": "object",
            "properties": {
                "table": {"type": "string", "enum": sorted(tables)},
                "column": {"type": "string", "enum": every_column},
                "value": {"type": "string", "maxLength": 1024},
            },
            "required": ["table", "column", "value"],
            "additionalProperties": False,
        },
        run=run,
        effect=Effect.READ,
    )

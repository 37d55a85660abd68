"""`audit sql`, `audit parquet`: the log as tables."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import itertools
import json
import math
import sys
import uuid
from typing import TYPE_CHECKING, Any

from moltbot.audit.v1 import audit_pb2

from moltbot_audit import parquet_files
from moltbot_audit.adapters.parquet import write_missing
from moltbot_audit.adapters.sql import Analysis, check
from moltbot_daemon.commands.shell import FAILED, OK, Shell, printable, tell
from moltbot_mesh.audit.administration import SPILL, administration_event
from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from moltbot_audit.adapters.sql import Answer

_MOST_ROWS_OF_A_TABLE = 1000
_WIDEST = 120


def sql(shell: Shell) -> int:
    """Run a SELECT over the log and print what it finds."""
    args = shell.args
    statement = sys.stdin.read() if args.statement == "-" else args.statement
    if not (0 < args.timeout <= 86_400 and 64 <= args.memory_mib <= 1 << 20):
        raise InvalidArgument("--timeout: at most a day; --memory-mib: 64 at least")
    check(statement)
    # Before anything is read: who cannot be recorded reads nothing.
    administration_event(
        shell.places.data_dir / SPILL,
        "audit sql",
        "events",
        "",
        kind=audit_pb2.EVENT_TYPE_AUDIT_READ,
        facts={"statement": statement},
    )
    log = shell.places.data_dir / "audit" / "log"
    printed = {"json": _print_json, "csv": _print_csv, "table": _print_table}["json" if args.json else args.format]
    with Analysis(log, timeout_s=args.timeout, memory_mib=args.memory_mib) as analysis:
        try:
            printed(analysis.run(statement))
            sys.stdout.flush()
        except BrokenPipeError:
            return FAILED
    return OK


def parquet(shell: Shell) -> int:
    """Write Parquet files."""
    log = shell.places.data_dir / "audit" / "log"
    if not (log / "segments").is_dir():
        raise InvalidArgument(f"{log}: no audit log; name the right --data-dir")
    if shell.args.rebuild:
        parquet_files.remove_all(log)
    written = write_missing(log, parquet_files.covered(log))
    shell.show({"written": written}, f"{written} files written")
    return OK


def _print_json(answer: Answer) -> None:
    """An array of objects, one a line."""
    if len(set(answer.columns)) < len(answer.columns):
        raise InvalidArgument("two columns have the same name; give one another with AS")
    before = "[\n"
    for row in answer.rows:
        value = dict(zip(answer.columns, map(_plain, row), strict=True))
        sys.stdout.write(f"{before}{json.dumps(value)}")
        before = ",\n"
    sys.stdout.write("\n]\n" if before != "[\n" else "[]\n")


def _print_csv(answer: Answer) -> None:
    """RFC 4180. Values stand as they are: whoever opens it in a spreadsheet must not let it run formulas."""
    out = csv.writer(sys.stdout)
    out.writerow(answer.columns)
    out.writerows([_shown(value, plain=True) for value in row] for row in answer.rows)


def _print_table(answer: Answer) -> None:
    rows = [[_shown(value) for value in row] for row in itertools.islice(answer.rows, _MOST_ROWS_OF_A_TABLE)]
    widths = [max(map(len, column)) for column in zip(answer.columns, *rows, strict=True)]
    for line in (answer.columns, ["-" * width for width in widths], *rows):
        sys.stdout.write(
            "  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip() + "\n"
        )
    if next(answer.rows, None) is not None:
        tell(f"moltbot: more than {_MOST_ROWS_OF_A_TABLE} rows; --format csv or json prints all")


def _shown(value: object, *, plain: bool = False) -> str:
    """A value as text; in a table without what would move the terminal's cursor, and cut where it is long."""
    made = _plain(value)
    text = "" if made is None else made if isinstance(made, str) else json.dumps(made, ensure_ascii=False)
    if plain:
        return text
    text = printable(text, kept="")
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def _plain(value: Any) -> Any:
    """A value of DuckDB as JSON has it: bytes in hexadecimal, times in ISO 8601."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID | dt.timedelta | decimal.Decimal):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

"""Records as a table of DuckDB."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from moltbot_audit.adapters.columns import Row, row
from moltbot_audit.merkle import leaf_hash
from moltbot_audit.segment import Damage, read
from moltbot_mesh.errors import DataLoss, FailedPrecondition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

    from duckdb import DuckDBPyConnection

_NUMBERS = {
    "sequence": "UBIGINT", "time_unix_ns": "UBIGINT", "prompt_tokens": "UINTEGER", "completion_tokens": "UINTEGER",
    "duration_us": "UBIGINT", "output_bytes": "UBIGINT", "reasoning_bytes": "UBIGINT", "mark_id": "UINTEGER",
    "http_status": "UINTEGER", "producer_epoch": "UBIGINT", "producer_counter": "UBIGINT",
}  # fmt: skip
_OTHERS = {
    "leaf_hash": "BLOB", "input_commitment": "BLOB", "output_commitment": "BLOB", "reasoning_commitment": "BLOB",
    "event_id": "UUID", "parent_event_id": "UUID", "attributes": "MAP(VARCHAR, VARCHAR)",
}  # fmt: skip
COLUMNS = {"sequence": "UBIGINT", "time": "TIMESTAMP"} | {
    name: _NUMBERS.get(name) or _OTHERS.get(name) or "VARCHAR" for name in Row._fields
}
"""Types by name; `time` is in UTC, to the microsecond."""
_MADE_OF = {
    "time": "make_timestamp((time_unix_ns // 1000)::BIGINT)",
    "attributes": "attributes::JSON::MAP(VARCHAR, VARCHAR)",
    "parent_event_id": "nullif(parent_event_id, '')",
}
_SELECT = ", ".join(_MADE_OF.get(name, name) for name in COLUMNS)
_AT_ONCE = 16_384


def _duckdb() -> ModuleType:
    try:
        import duckdb  # noqa: PLC0415 - 25 MB that only analysis needs
    except ImportError:
        raise FailedPrecondition("DuckDB is not installed here; `pip install 'moltbot[analysis]'` brings it") from None
    return duckdb


def errors() -> type[Exception]:
    """What DuckDB raises.

    Raises:
        FailedPrecondition: DuckDB is not installed.
    """
    return _duckdb().Error


def connect(memory_mib: int, threads: int, spill: Path | None = None) -> DuckDBPyConnection:
    """A database in memory.

    Args:
        memory_mib: The most it may take.
        threads: How many it may use.
        spill: A directory for what is more; without one it fails.

    Raises:
        FailedPrecondition: DuckDB is not installed.
    """
    return _duckdb().connect(
        ":memory:",
        config={
            "memory_limit": f"{memory_mib}MiB",
            "threads": str(threads),
            "temp_directory": str(spill or ""),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        },
    )


def rows(segment: Path, first: int, *, torn: bool = False) -> Iterator[Row]:
    """The rows of a segment.

    Args:
        segment: Its file.
        first: Its first sequence.
        torn: Whether it may end with a damaged record: the newest segment is being written.

    Raises:
        DataLoss: A record is damaged.
    """
    for item in read(segment, first):
        if isinstance(item, Damage):
            if torn:
                return
            raise DataLoss(f"the audit log is damaged: {item}; `moltbot audit verify` tells more")
        yield row(item.number, leaf_hash(item.payload), item.payload)


def make_table(db: DuckDBPyConnection, table: str) -> None:
    """Make a table for rows."""
    db.execute(f"CREATE TABLE {table} ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})")


def insert(db: DuckDBPyConnection, table: str, found: Iterable[Row]) -> int:
    """Put rows into a table.

    Returns:
        Behind the sequence of the last one; 0 if there are none.
    """
    waiting, following = iter(found), 0
    while part := list(itertools.islice(waiting, _AT_ONCE)):
        db.register("part", _arrays(part))
        db.execute(f"INSERT INTO {table} SELECT {_SELECT} FROM part")  # noqa: S608 - our own names
        db.unregister("part")
        following = part[-1].sequence + 1
    return following


def _arrays(found: Sequence[Row]) -> dict[str, Any]:
    """Rows, of which there are some, as what DuckDB reads: arrays of numbers, bytes and texts."""
    arrays: dict[str, Any] = {}
    for name, values in zip(Row._fields, zip(*found, strict=True), strict=True):
        if name in _NUMBERS:
            arrays[name] = np.array(values, dtype=np.uint64)
        elif name == "attributes":
            arrays[name] = _objects([json.dumps(value) for value in values])
        elif COLUMNS[name] == "UUID":
            arrays[name] = _objects([str(value or "") for value in values])
        else:
            arrays[name] = _objects(values)
    return arrays


def _objects(values: Sequence[object]) -> Any:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made

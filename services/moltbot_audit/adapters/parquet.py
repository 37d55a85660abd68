"""Sealed segments as Parquet files, written by DuckDB.

As a program (`python -m moltbot_audit.adapters.parquet LOG-DIRECTORY COVERED`) it writes those that are missing: the
service runs it beside itself, so that no append waits for the interpreter's lock or for DuckDB's memory.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_audit.adapters import duck
from moltbot_audit.adapters.columns import VERSION
from moltbot_audit.parquet_files import sealed, tidy
from moltbot_mesh import durable
from moltbot_mesh.errors import DataLoss, MoltbotError, Unavailable

if TYPE_CHECKING:
    from moltbot_audit.parquet_files import Sealed

_ROWS_OF_A_GROUP = 65_536
_MEMORY_MIB = 512
_NICE = 10


def write_missing(directory: Path, covered: int) -> int:
    """Write the Parquet files of those sealed segments that have none, and remove what does not belong there.

    Args:
        directory: The log's.
        covered: Records under the newest checkpoint.

    Returns:
        How many were written.

    Raises:
        DataLoss: A segment is damaged.
        FailedPrecondition: DuckDB is not installed.
        Unavailable: DuckDB cannot write it, as on a full disk.
        OSError: The disk is full or fails.
    """
    tidy(directory, VERSION)
    written = 0
    for one in sealed(directory, covered, VERSION):
        if one.parquet.exists():
            continue
        try:
            _write(one)
        except FileNotFoundError:
            if one.segment.exists():
                raise
            continue  # it has expired meanwhile
        written += 1
    return written


def _write(one: Sealed) -> None:
    """Write a file that is there only when it is whole and on disk."""
    home = one.parquet.parent
    durable.make_directories(home)
    temporary = home / f".{one.parquet.name}.{os.getpid()}.tmp"
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".spill-", suffix=".tmp", dir=home) as spill,
            duck.connect(_MEMORY_MIB, 1, Path(spill)) as db,
        ):
            duck.make_table(db, "found")
            following = duck.insert(db, "found", duck.rows(one.segment, one.first))
            if following != one.following:
                raise DataLoss(
                    f"{one.segment.name}: ends before record {following}, not {one.following};"
                    " `moltbot audit verify` tells more"
                )
            how = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROWS_OF_A_GROUP}, USE_TMP_FILE false"
            db.execute(f"COPY found TO $1 ({how})", [str(temporary)])
        temporary.chmod(0o600)
        durable.sync(temporary)
        temporary.replace(one.parquet)
        durable.sync(home)
    except duck.errors() as error:
        raise Unavailable(f"{one.parquet.name}: cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def main(argv: list[str]) -> int:
    """Write what is missing, with what processor time others leave."""
    os.umask(0o077)
    os.nice(_NICE)
    try:
        print(write_missing(Path(argv[0]), int(argv[1])))  # noqa: T201 - the result
    except (MoltbotError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the service logs it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

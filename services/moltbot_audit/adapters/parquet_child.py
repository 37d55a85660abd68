"""Runs the program that writes Parquet files, when a segment was sealed."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from typing import TYPE_CHECKING

import structlog

from moltbot_audit.adapters.columns import VERSION
from moltbot_audit.parquet_files import sealed, tidy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = structlog.get_logger("moltbot.audit")

_LOOK_S = 5.0
_AFTER_FAILURE_S = 300.0
_CHILD_S = 3600.0


async def keep_parquet(directory: Path, covered: Callable[[], int], *, write: bool) -> None:
    """Have a Parquet file for each sealed segment, and none for one that has expired; until it is cancelled.

    Args:
        directory: The log's.
        covered: Records under the newest checkpoint.
        write: Whether files are written, if DuckDB is installed; else those of expired segments go all the same.
    """
    write = write and importlib.util.find_spec("duckdb") is not None
    while True:
        pause_s = _LOOK_S
        try:
            await asyncio.to_thread(tidy, directory)
            if write and await asyncio.to_thread(_misses, directory, covered()):
                pause_s = await _run(directory, covered())
        except OSError as error:
            log.warning("Parquet files not kept; trying again", error=str(error))
            pause_s = _AFTER_FAILURE_S
        await asyncio.sleep(pause_s)


def _misses(directory: Path, covered: int) -> bool:
    return any(not one.parquet.exists() for one in sealed(directory, covered, VERSION))


async def _run(directory: Path, covered: int) -> float:
    """Let it write what is missing; after how many seconds to look again."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "moltbot_audit.adapters.parquet", str(directory), str(covered),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_CHILD_S):
            _, said = await child.communicate()
    except TimeoutError:
        said = f"longer than {_CHILD_S:.0f} s".encode()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode == 0:
        return _LOOK_S
    log.warning("Parquet files not written; trying again", error=said.decode(errors="replace").strip()[-1000:])
    return _AFTER_FAILURE_S

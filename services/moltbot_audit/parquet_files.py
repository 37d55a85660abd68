"""Which Parquet files stand beside the segments: one for each that is sealed, made from it, and gone with it."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import time
from typing import TYPE_CHECKING, NamedTuple

from moltbot_audit.checkpoint import parse
from moltbot_audit.segment import segments
from moltbot_audit.verify import CHECKPOINT_FILE

if TYPE_CHECKING:
    from pathlib import Path

_DIRECTORY = "parquet"
_NAME = re.compile(r"(\d{20})\.v(\d+)\.parquet")
_LEFT_BEHIND_S = 3600.0


class Sealed(NamedTuple):
    """A segment that nothing is written to any more, and the file that belongs to it."""

    first: int
    following: int
    """Behind its last sequence."""
    segment: Path
    parquet: Path


def covered(directory: Path) -> int:
    """Records under the newest checkpoint of a log; its signature is not looked at."""
    note = directory / CHECKPOINT_FILE
    return parse(note.read_text("utf-8")).size if note.exists() else 0


def sealed(directory: Path, covered: int, version: int) -> list[Sealed]:
    """All sealed segments, oldest first.

    Args:
        directory: The log's.
        covered: Records under the newest checkpoint. A segment that it does not cover may still be taken back: its last
            append may have failed.
        version: Of the columns.
    """
    target = directory / _DIRECTORY
    return [
        Sealed(first, following, path, target / f"{first:020d}.v{version}.parquet")
        for (first, path), (following, _) in itertools.pairwise(segments(directory / "segments"))
        if following <= covered
    ]


def tidy(directory: Path, version: int | None = None) -> None:
    """Remove the files of segments that have expired, those of other versions, and what a crash left half-written.

    Args:
        directory: The log's.
        version: Of the columns; without it any version may stay.
    """
    target = directory / _DIRECTORY
    oldest = segments(directory / "segments")[0][0]
    for path in target.glob("*.parquet"):
        found = _NAME.fullmatch(path.name)
        if found and (int(found[1]) < oldest or (version is not None and int(found[2]) != version)):
            path.unlink(missing_ok=True)
    for path in target.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # whoever writes it has done so
            if path.stat().st_mtime < time.time() - _LEFT_BEHIND_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_all(directory: Path) -> None:
    """Remove all files, so that they are written again."""
    shutil.rmtree(directory / _DIRECTORY, ignore_errors=True)

"""Where a producer's events stopped reaching its disk, remembered beside the spill.

Events that wait in memory for a spill that is full end with their process. This small file, written when the trouble
begins, lets the next start declare them: an end of counting would otherwise hide what was lost at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import structlog

from moltbot_mesh.durable import replace_durably

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger("moltbot.audit")


class Unspilled(NamedTuple):
    """What may be lost."""

    epoch: int
    first: int
    """The lowest counter among it."""


class UnspilledMarks:
    """The file. One thread at a time.

    Args:
        path: Where it stands while there is something to remember.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        lines: list[str] = []
        try:
            lines = path.read_text("ascii", "replace").splitlines()
        except FileNotFoundError:
            pass
        except OSError as error:  # what was lost is found as undeclared then
            log.error("mark of unspilled audit events not read", file=str(path), error=str(error))
        found = [line.split(" ") for line in lines]
        self.left = [Unspilled(int(a), int(b)) for a, b, *_ in found if a.isdecimal() and b.isdecimal()]
        """What earlier runs left and what this one added."""

    def add(self, epoch: int, first: int) -> None:
        """Remember, durably, that events from a counter on are not on disk.

        Raises:
            OSError: The disk is full or fails.
        """
        marks = [*self.left, Unspilled(epoch, first)]
        replace_durably(self._path, "".join(f"{mark.epoch} {mark.first}\n" for mark in marks).encode())
        self.left = marks

    def clear(self) -> None:
        """Forget all: what was lost stands in the log, or on its way there.

        Raises:
            OSError: The disk fails.
        """
        self._path.unlink(missing_ok=True)
        self.left = []

"""What others say of the log's checkpoints: witnesses' co-signatures and time stamps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moltbot_audit.checkpoint import Checkpoint, parse
from moltbot_mesh.durable import make_directories, replace_durably

if TYPE_CHECKING:
    from pathlib import Path

_COSIGNED_FILE = "checkpoint.cosigned"


class Attestations:
    """Of one log, below its directory. Its methods may be called from any thread; all block."""

    def __init__(self, directory: Path) -> None:
        self._cosigned_file = directory / _COSIGNED_FILE
        self._stamps = directory / "time-stamps"
        self._cosigned = self._cosigned_file.read_text("utf-8") if self._cosigned_file.is_file() else ""

    def cosigned(self) -> tuple[str, Checkpoint] | None:
        """The newest checkpoint that witnesses have cosigned, with their lines; None if there is none."""
        note = self._cosigned
        return (note, parse(note)) if note else None

    def keep_cosigned(self, note: str) -> None:
        """Take over a checkpoint of this log that witnesses have cosigned.

        Raises:
            OSError: The disk is full or fails.
        """
        replace_durably(self._cosigned_file, note.encode())
        self._cosigned = note

    def newest_time_stamp(self) -> int:
        """The size of the newest checkpoint that an authority has stamped; 0 if none."""
        return max((int(path.stem) for path in self._stamps.glob("*.tsr")), default=0)

    def keep_time_stamp(self, note: str, response: bytes) -> None:
        """Keep a checkpoint of this log and its time stamp.

        Raises:
            OSError: The disk is full or fails.
        """
        make_directories(self._stamps)
        name = f"{parse(note).size:020d}"
        replace_durably(self._stamps / f"{name}.checkpoint", note.encode())
        replace_durably(self._stamps / f"{name}.tsr", response)  # last: who sees it has the checkpoint too

    def time_stamped(self, sequence: int) -> tuple[str, Checkpoint, bytes] | None:
        """The oldest stamped checkpoint that covers a record, and its stamp; None if there is none yet."""
        for path in sorted(self._stamps.glob("*.tsr")):
            if int(path.stem) > sequence:
                note = path.with_suffix(".checkpoint").read_text("utf-8")
                return note, parse(note), path.read_bytes()
        return None

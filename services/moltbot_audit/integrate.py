"""Behind a commit: the tree grows, and a checkpoint is signed at most once an interval."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from moltbot_audit.backlog import Backlog
from moltbot_audit.records import COLUMNS
from moltbot_mesh.durable import replace_durably

if TYPE_CHECKING:
    from pathlib import Path

    from moltbot_audit.checkpoint import Signer
    from moltbot_audit.records import Committed
    from moltbot_audit.tiles import Tree

log = structlog.get_logger("moltbot.audit")

_HASH_BATCH = 128
_SEGMENT = COLUMNS.index("segment")


class Integrator:
    """The thread that lets the tree grow and signs it.

    Args:
        tree: Has what stands in the log.
        signer: Signs checkpoints.
        path: The checkpoint's file.
        note: The newest checkpoint, empty if there is none.
        signed: Its size.
        interval_s: Least time between two checkpoints, in seconds.
    """

    def __init__(self, tree: Tree, signer: Signer, path: Path, *, note: str, signed: int, interval_s: float) -> None:
        self.tree_lock = threading.Lock()
        self.note = note
        """The newest checkpoint."""
        self.problem = ""
        """Why it is behind; empty when it is not."""
        self.backlog = Backlog(tree.size)
        self._tree = tree
        self._signer = signer
        self._path = path
        self._signed = signed
        self._interval_s = interval_s
        self._segment = -1
        self._sign_now = False
        if not note:
            self._sign()
        self._thread = threading.Thread(target=self._run, name="audit-integrate", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        next_sign_s = time.monotonic() + self._interval_s
        while True:
            behind = self._signed < self._tree.size
            committed = self.backlog.take(max(0.0, next_sign_s - time.monotonic()) if behind else None)
            if committed is not None:
                self._hash(committed)
            ends = self.backlog.closed and self.backlog.is_empty
            due = self._sign_now or ends or time.monotonic() >= next_sign_s
            if self._tree.size > self._signed and due:
                self._try_sign()
                next_sign_s = time.monotonic() + self._interval_s
            if ends:
                return

    def _hash(self, committed: Committed) -> None:
        rows, leaves = committed
        for start in range(0, len(leaves), _HASH_BATCH):
            with self.tree_lock:
                for leaf in leaves[start : start + _HASH_BATCH]:
                    self._tree.append(leaf)
            time.sleep(0)  # the committing thread waits for the interpreter's lock, and a client for it
        try:
            with self.tree_lock:
                self._tree.flush()
        except OSError as error:  # tried again with the next batch or checkpoint
            log.warning("tiles not written; trying again", error=str(error))
        self.backlog.done(len(leaves))
        segment = rows[-1][_SEGMENT]
        if segment != self._segment:
            self._sign_now = self._segment >= 0
            self._segment = segment

    def _try_sign(self) -> None:
        try:
            self._sign()
        except Exception as error:  # noqa: BLE001 - a thread that ends would stop the log some time later
            self.problem = f"no checkpoint can be written: {str(error) or type(error).__name__}"
            log.warning("checkpoint not written; trying again", error=self.problem)
        else:
            self._sign_now = False
            self.problem = ""

    def _sign(self) -> None:
        with self.tree_lock:
            size, root = self._tree.size, self._tree.root()
            self._tree.publish()
        note = self._signer.sign(size, root)
        replace_durably(self._path, note.encode())
        self.note, self._signed = note, size

    def close(self) -> None:
        """Integrate what is left, sign it, and end."""
        self.backlog.close()
        self._thread.join()

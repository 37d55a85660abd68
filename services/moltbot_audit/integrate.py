"""What follows a commit: the tree grows, a checkpoint is signed at most once an interval, the index is filled."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import structlog

from moltbot_mesh.durable import replace_durably
from moltbot_mesh.errors import MoltbotError

if TYPE_CHECKING:
    from pathlib import Path

    from moltbot_audit.checkpoint import Signer
    from moltbot_audit.index import Index
    from moltbot_audit.records import Committed
    from moltbot_audit.tiles import Tree

log = structlog.get_logger("moltbot.audit")

_MOST_BEHIND = 100_000
_INDEX_BATCH = 2048
_HASH_BATCH = 128
_RETRY_S = 1.0


class Integrator:
    """The thread behind the log.

    Args:
        tree: Has what stands in the log.
        index: Likewise.
        signer: Signs checkpoints.
        path: The checkpoint's file.
        note: The newest checkpoint, empty if there is none.
        signed: Its size.
        interval_s: Least time between two checkpoints, in seconds.
    """

    def __init__(
        self, tree: Tree, index: Index, signer: Signer, path: Path, *, note: str, signed: int, interval_s: float
    ) -> None:
        self.tree_lock = threading.Lock()
        self.note = note
        """The newest checkpoint."""
        self.indexed = tree.size
        """All records below this sequence are in the index."""
        self._sign_problem = ""
        self._index_problem = ""
        self._tree = tree
        self._index = index
        self._signer = signer
        self._path = path
        self._signed = signed
        self._interval_s = interval_s
        self._came = threading.Condition()
        self._went = threading.Condition()
        self._to_hash: deque[list[Committed]] = deque()
        self._to_index: deque[Committed] = deque()
        self._fed = tree.size
        self._segment = -1
        self._sign_now = False
        self._closing = False
        if not note:
            self._sign()
        self._thread = threading.Thread(target=self._run, name="audit-integrate", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why it is behind; empty when it is not."""
        return self._sign_problem or self._index_problem

    def feed(self, batch: list[Committed]) -> None:
        """Take what was committed; blocks while too much waits."""
        with self._came:
            self._to_hash.append(batch)
            self._fed = batch[-1].place.sequence + 1
            self._came.notify()
        with self._went:
            while self._fed - self.indexed > _MOST_BEHIND and not self._closing:
                self._went.wait(_RETRY_S)

    def wait_indexed(self, sequence: int, timeout_s: float) -> bool:
        """Wait until all records below a sequence are in the index; whether they are."""
        if self.indexed >= sequence:
            return True
        with self._went:
            return self._went.wait_for(lambda: self.indexed >= sequence, timeout_s)

    def _run(self) -> None:
        next_sign_s = time.monotonic() + self._interval_s
        while True:
            with self._came:
                if not self._to_hash and not self._to_index and not self._closing:
                    behind = self._signed < self._tree.size
                    self._came.wait(max(0.0, next_sign_s - time.monotonic()) if behind else None)
                closing = self._closing
            self._hash()
            due = self._sign_now or closing or time.monotonic() >= next_sign_s
            if self._tree.size > self._signed and due:
                self._try_sign()
                next_sign_s = time.monotonic() + self._interval_s
            if not self._fill_index():
                if closing:
                    return  # what is not indexed is, after the next start
                time.sleep(_RETRY_S)
            if closing and not self._to_hash and not self._to_index:
                return

    def _hash(self) -> None:
        """Let the tree grow by about as much as the index is filled by in one turn."""
        hashed = 0
        while self._to_hash and hashed < _INDEX_BATCH:
            batch = self._to_hash.popleft()
            hashed += len(batch)
            for start in range(0, len(batch), _HASH_BATCH):
                with self.tree_lock:
                    for committed in batch[start : start + _HASH_BATCH]:
                        self._tree.append(committed.leaf)
                time.sleep(0)  # the committing thread waits for the interpreter's lock, and a client for it
            self._to_index.extend(batch)
            try:
                with self.tree_lock:
                    self._tree.flush()
            except OSError as error:  # tried again with the next batch or checkpoint
                log.warning("tiles not written; trying again", error=str(error))
            if batch[-1].place.segment != self._segment:
                self._sign_now = self._segment >= 0
                self._segment = batch[-1].place.segment

    def _try_sign(self) -> None:
        try:
            self._sign()
        except (OSError, MoltbotError) as error:
            self._sign_problem = f"no checkpoint can be written: {error}"
            log.warning("checkpoint not written; trying again", error=str(error))
        else:
            self._sign_now = False
            self._sign_problem = ""

    def _sign(self) -> None:
        with self.tree_lock:
            size, root = self._tree.size, self._tree.root()
            self._tree.publish()
        note = self._signer.sign(size, root)
        replace_durably(self._path, note.encode())
        self.note, self._signed = note, size

    def _fill_index(self) -> bool:
        if not self._to_index:
            return True
        batch = [self._to_index.popleft() for _ in range(min(len(self._to_index), _INDEX_BATCH))]
        try:
            self._index.add(batch)
        except sqlite3.Error as error:
            self._to_index.extendleft(reversed(batch))
            self._index_problem = f"the index cannot be written: {error}"
            log.warning("index not written; trying again", error=str(error))
            return False
        self._index_problem = ""
        with self._went:
            self.indexed = batch[-1].place.sequence + 1
            self._went.notify_all()
        return True

    def close(self) -> None:
        """Integrate what is left, sign it, and end."""
        with self._came:
            self._closing = True
            self._came.notify()
        self._thread.join()

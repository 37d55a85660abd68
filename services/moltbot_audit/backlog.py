"""What was committed and still waits for a thread behind the log."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from moltbot_audit.records import Committed

if TYPE_CHECKING:
    from moltbot_audit.records import Row

_MOST = 100_000
_BATCH = 2048
_LINGER_S = 0.005
"""How long records wait for others. Single ones would cost a turn of both threads each, and so hold up those that are
still to be committed."""


class Backlog:
    """Records by sequence, from the thread that commits to one that follows.

    Args:
        reached: Where it begins.
    """

    def __init__(self, reached: int) -> None:
        self.reached = reached
        """All records below this sequence have been followed up."""
        self._fed = reached
        self._waiting: deque[Committed] = deque()
        self._came = threading.Condition()
        self._went = threading.Condition()
        self._bounded = True
        self.closed = False
        """Nothing more will come."""

    def put(self, committed: Committed) -> None:
        """Add records; blocks while more than 100,000 wait, unless `release` was called."""
        with self._came:
            self._waiting.append(committed)
            self._fed += len(committed.rows)
            self._came.notify()
        with self._went:
            self._went.wait_for(lambda: self._fed - self.reached <= _MOST or not self._bounded)

    def release(self) -> None:
        """Let nobody wait in `put` any more: what follows may never get on, and the log is to end all the same."""
        with self._went:
            self._bounded = False
            self._went.notify_all()

    def take(self, timeout_s: float | None = None) -> Committed | None:
        """Wait for the next records, at least 2,048 if so many come within some milliseconds.

        Returns:
            The records; None if there are none until the time is up, or none any more.
        """
        with self._came:
            if not self._came.wait_for(lambda: self._waiting or self.closed, timeout_s):
                return None
        if self._fed - self.reached < _BATCH and not self.closed:
            time.sleep(_LINGER_S)
        rows: list[Row] = []
        leaves: list[bytes] = []
        while self._waiting and len(rows) < _BATCH:  # nobody else takes
            committed = self._waiting.popleft()
            rows += committed.rows
            leaves += committed.leaves
        return Committed(rows, leaves) if rows else None

    def done(self, count: int) -> None:
        """Note that the next records have been followed up."""
        with self._went:
            self.reached += count
            self._went.notify_all()

    def wait(self, sequence: int, timeout_s: float) -> bool:
        """Wait until all records below a sequence have been followed up; whether they are."""
        if self.reached >= sequence:
            return True
        with self._went:
            return self._went.wait_for(lambda: self.reached >= sequence, timeout_s)

    @property
    def is_empty(self) -> bool:
        """Whether `take` would have to wait."""
        return not self._waiting

    def close(self) -> None:
        """Say that nothing more will come; what waits can still be taken."""
        with self._came:
            self.closed = True
            self._came.notify()

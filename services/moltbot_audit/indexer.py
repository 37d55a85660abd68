"""Behind a commit: the index is filled."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from moltbot_audit.backlog import Backlog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_audit.index import Index
    from moltbot_audit.records import Row

log = structlog.get_logger("moltbot.audit")

_BATCH = 2048
_RETRY_S = 1.0


class Indexer:
    """The thread that fills the index.

    What it cannot write it tries again; what is left at the end is written after the next start.

    Args:
        index: Has what stands in the log.
        size: Records in it.
    """

    def __init__(self, index: Index, size: int) -> None:
        self.backlog = Backlog(size)
        self.problem = ""
        """Why it is behind; empty when it is not."""
        self._index = index
        self._thread = threading.Thread(target=self._run, name="audit-index", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (committed := self.backlog.take()) is not None:
            for start in range(0, len(committed.rows), _BATCH):
                if not self._fill(committed.rows[start : start + _BATCH]):
                    return

    def _fill(self, rows: Sequence[Row]) -> bool:
        """Write rows, however often it takes; False if that is not to be waited for."""
        while True:
            try:
                self._index.add(rows)
            except Exception as error:  # noqa: BLE001 - a thread that ends would stop the log some time later
                self.problem = f"the index cannot be written: {str(error) or type(error).__name__}"
                log.warning("index not written; trying again", error=self.problem)
                if self.backlog.closed:
                    return False
                time.sleep(_RETRY_S)
            else:
                self.problem = ""
                self.backlog.done(len(rows))
                return True

    def close(self) -> None:
        """Index what is left, and end."""
        self.backlog.close()
        self._thread.join()

"""Progress on a terminal of what takes a while."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_REPORT_BYTES = 256 << 20
_INTERVAL_S = 0.2


def told_while_hashing() -> Callable[[str, int, int], None]:
    """Progress of hashing, on a terminal, for what takes a while."""
    last = [0.0]

    def told(name: str, done: int, total: int) -> None:
        if (
            total > _REPORT_BYTES
            and sys.stderr.isatty()
            and (time.monotonic() - last[0] > _INTERVAL_S or done == total)
        ):
            last[0] = time.monotonic()
            end = "\n" if done == total else ""
            print(f"\rhashing {name:<40.40} {done / total:4.0%}", end=end, file=sys.stderr, flush=True)  # noqa: T201

    return told

"""A disk that is full, fails, writes less than asked, and loses power: under the audit log in its crash tests.

What was not synced is remembered with what stood there before, so that losing power can do what it does to a page
cache: any of the unsynced sectors are lost, each on its own, in any order.

Source: Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014); Rebello et al., "Can Applications Recover
from fsync Failures?" (ATC 2020).
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_audit.disk import Disk

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

_SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class FaultRates:
    """How likely each fault is at each operation that can have it."""

    full: float = 0.02
    """ENOSPC at writing or allocating."""
    fails: float = 0.02
    """EIO at writing or syncing; some of the data may have been written."""
    short: float = 0.1
    """Fewer bytes are written than asked."""
    power: float = 0.002
    """Power is lost: unsynced sectors vanish, and the process dies."""


class FaultyDisk(Disk):
    """See above. For one process; its faults are drawn from `random`.

    Args:
        random: Decides.
        rates: Of the faults.
    """

    def __init__(self, random: Random, rates: FaultRates) -> None:
        self._random, self._rates = random, rates
        self._lock = threading.Lock()
        self._paths: dict[int, Path] = {}
        """Of open files, by descriptor, which the next file may get."""
        self._unsynced: list[tuple[Path, int, bytes]] = []
        """File, offset and former bytes of each write, in order."""
        self._nameless: set[Path] = set()
        """Files whose names are not on disk yet."""
        self.faults = 0
        """That were raised."""

    def create(self, path: Path) -> int:
        """See `Disk`."""
        self._maybe(self._rates.full, errno.ENOSPC)
        file = super().create(path)
        self._paths[file] = path
        self._nameless.add(path)
        return file

    def open(self, path: Path) -> int:
        """See `Disk`."""
        file = super().open(path)
        self._paths[file] = path
        return file

    def allocate(self, file: int, size: int) -> None:
        """See `Disk`."""
        self._maybe(self._rates.full, errno.ENOSPC)
        super().allocate(file, size)

    def write(self, file: int, data: memoryview | bytes, offset: int) -> int:
        """See `Disk`."""
        view = memoryview(data)
        self._maybe(self._rates.full, errno.ENOSPC)
        if self._draw(self._rates.short) and len(view) > 1:
            view = view[: self._random.randrange(1, len(view))]
        torn = self._draw(self._rates.fails)
        if torn:
            view = view[: self._random.randrange(len(view) + 1)]
        before = os.pread(file, len(view), offset)
        with self._lock:
            self._unsynced.append((self._paths[file], offset, before + bytes(len(view) - len(before))))
        written = super().write(file, view, offset)
        self._maybe_lose_power()
        if torn:
            raise self._fault(errno.EIO)
        return written

    def sync(self, file: int) -> None:
        """See `Disk`."""
        self._maybe_lose_power()
        self._maybe(self._rates.fails, errno.EIO)
        super().sync(file)
        with self._lock:
            self._unsynced = [one for one in self._unsynced if one[0] != self._paths[file]]

    def sync_names(self, directory: Path) -> None:
        """See `Disk`."""
        self._maybe_lose_power()
        self._maybe(self._rates.fails, errno.EIO)
        super().sync_names(directory)
        self._nameless.clear()

    def lose_power(self) -> None:
        """Lose what was not synced, or some of it, and die."""
        with self._lock:  # nobody writes from here on
            for path, offset, before in reversed(self._unsynced):
                self._forget(path, offset, before)
            for path in self._nameless:
                if self._random.random() < 0.5:
                    path.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def _forget(self, path: Path, offset: int, before: bytes) -> None:
        """Undo a write in some of the disk's sectors."""
        if not path.exists():
            return
        file, start = os.open(path, os.O_RDWR), 0
        while start < len(before):
            end = min(len(before), start + _SECTOR_BYTES - (offset + start) % _SECTOR_BYTES)
            if self._random.random() < 0.5:
                os.pwrite(file, before[start:end], offset + start)
            start = end
        os.close(file)

    def _draw(self, rate: float) -> bool:
        return self._random.random() < rate

    def _maybe(self, rate: float, number: int) -> None:
        if self._draw(rate):
            raise self._fault(number)

    def _fault(self, number: int) -> OSError:
        self.faults += 1
        return OSError(number, os.strerror(number))

    def _maybe_lose_power(self) -> None:
        if self._draw(self._rates.power):
            self.lose_power()

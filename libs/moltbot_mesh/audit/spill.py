"""A producer's events on disk, in order, from when they are spilled until the log has them.

Files of frames, each named after the number of its first; a file goes when all in it is acknowledged. A crash may leave
acknowledged events in the oldest file: they are sent again, and the log knows them by their ids.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING

import structlog

from moltbot_mesh import durable
from moltbot_mesh.audit import frames
from moltbot_mesh.audit.producer_identity import start_epoch
from moltbot_mesh.audit.recent import Position, Recent
from moltbot_mesh.errors import ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

log = structlog.get_logger("moltbot.audit")

_FILE_BYTES = 1 << 20
_RECENT_BYTES = 4 << 20
_MOST_INSTANCES = 64
_IDENTITY_FILE = "producer"


class SpillInUse(Unavailable):
    """Another process has the spill open."""


class Spill:
    """One producer's spill. Any thread may append; one at a time reads and releases.

    Args:
        directory: Its own; made if it is not there.
        limit_bytes: Most that may wait on disk.

    Raises:
        SpillInUse: Another process uses the directory.
        Unavailable: It cannot be written.
        DataLoss: The producer's identity is damaged.
    """

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self.directory = directory
        """Its own."""
        self._limit_bytes = limit_bytes
        self._file_bytes = min(_FILE_BYTES, limit_bytes // 8)
        self._lock = threading.Lock()
        self._append_lock = threading.Lock()
        self._recent = Recent(_RECENT_BYTES)
        try:
            durable.make_directories(directory)
            self._lock_file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.producer_id, self.epoch = start_epoch(directory / _IDENTITY_FILE)
            """Who spills; the epoch grows with each start."""
            self._sizes = {int(path.stem): path.stat().st_size for path in sorted(directory.glob("*.spill"))}
            self._next = self._find_end()
        except BlockingIOError:
            os.close(self._lock_file)
            raise SpillInUse(f"{directory}: another process has this spill open") from None
        except OSError as error:
            raise Unavailable(f"{directory}: the audit spill cannot be opened: {error.strerror}") from error
        self._file = -1
        """The newest file, if it is open for appending."""
        self._first = self._next
        self._end = 0
        self._writing = False
        self._named = False
        """Whether the newest file's name is on disk."""

    def _find_end(self) -> int:
        if not self._sizes:
            return 0
        first = max(self._sizes)
        last = first
        for item in frames.read(self._path(first).read_bytes(), 0, first):
            if isinstance(item, frames.Frame):
                last = item.number + 1
        return max(last, first + 1)  # a file without an intact event keeps its name to itself

    def _path(self, first: int) -> Path:
        return self.directory / f"{first:020d}.spill"

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        with self._lock:
            return sum(self._sizes.values())

    @property
    def start(self) -> Position:
        """Before the oldest event."""
        with self._lock:
            first = min(self._sizes, default=self._next)
        return Position(first, 0, first)

    @property
    def end(self) -> int:
        """Number that the next event gets."""
        return self._next

    def append(self, payloads: Sequence[bytes], *, sync: bool, reserve_bytes: int = 0) -> None:
        """Write events: all or none. They outlive the process when this returns.

        Args:
            payloads: Serialised events.
            sync: Whether they must also outlive the machine.
            reserve_bytes: Room that must stay.

        Raises:
            ResourceExhausted: The spill is full.
            Unavailable: The disk fails.
        """
        with self._append_lock:
            self._append(payloads, sync=sync, reserve_bytes=reserve_bytes)

    def _append(self, payloads: Sequence[bytes], *, sync: bool, reserve_bytes: int) -> None:
        encoded = frames.encode(self._next, payloads, commit=True)
        data = b"".join(encoded)
        if self.size_bytes + len(data) + reserve_bytes > self._limit_bytes:
            raise ResourceExhausted(
                f"the audit spill is full ({self._limit_bytes} bytes): the audit service does not take events",
                reason="AUDIT_UNAVAILABLE",
            )
        with self._lock:
            self._writing = True
        try:
            self._write(data, sync=sync)
        except OSError as error:
            with contextlib.suppress(OSError):
                if self._file >= 0:
                    os.ftruncate(self._file, self._end)
            raise Unavailable(
                f"{self.directory}: the audit spill cannot be written: {error.strerror}", reason="AUDIT_UNAVAILABLE"
            ) from error
        else:
            start = Position(self._first, self._end, self._next)
            with self._lock:
                self._end += len(data)
                self._sizes[self._first] = self._end
                self._next += len(payloads)
            self._recent.add(start, payloads, encoded)
        finally:
            with self._lock:
                self._writing = False

    def _write(self, data: bytes, *, sync: bool) -> None:
        if self._file < 0 or self._end >= self._file_bytes:
            file = os.open(self._path(self._next), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            with self._lock:
                if self._file >= 0:
                    os.close(self._file)
                self._file, self._first, self._end = file, self._next, 0
                self._sizes[self._first] = 0
            self._named = False
        if sync and not self._named:
            durable.sync(self.directory)
            self._named = True
        view, written = memoryview(data), 0
        while written < len(data):
            written += os.pwrite(self._file, view[written:], self._end + written)
        if sync:
            os.fdatasync(self._file)

    def newest(self, start: Position, most: int, most_bytes: int) -> tuple[list[bytes], Position] | None:
        """As `read`, without the disk; `None` if it must be asked. What is taken here is not here a second time."""
        return ([], start) if start.number >= self._next else self._recent.take(start, most, most_bytes)

    def read(self, start: Position, most: int, most_bytes: int) -> tuple[list[bytes], Position]:
        """Read events.

        Args:
            start: From where.
            most: How many at most.
            most_bytes: Of how many bytes at most, unless the first alone has more.

        Returns:
            The events, none if there are no more, and the place behind them.

        Raises:
            OSError: The disk fails.
        """
        while True:
            with self._lock:
                size = self._sizes.get(start.file)
                following = min((first for first in self._sizes if first > start.file), default=None)
            found: list[bytes] = []
            if size is not None and size > start.offset:
                found, start = self._read_file(start, size, most, most_bytes)
            if found or following is None:
                return found, start
            start = Position(following, 0, following)

    def _read_file(self, start: Position, size: int, most: int, most_bytes: int) -> tuple[list[bytes], Position]:
        with self._path(start.file).open("rb") as file:
            file.seek(start.offset)
            data = file.read(size - start.offset)
        found: list[bytes] = []
        number, offset, total = start.number, size, 0
        for item in frames.read(data, 0, start.number):
            if isinstance(item, frames.Damage):
                log.error("spilled audit event damaged", file=self._path(start.file).name, what=item.what)
                continue
            total += len(item.payload)
            if found and total > most_bytes:
                offset = start.offset + item.offset
                break
            found.append(item.payload)
            number, offset = item.number + 1, start.offset + item.end
            if len(found) == most:
                break
        return found, Position(start.file, offset, number)

    def frees(self, until: Position) -> bool:
        """Whether `release` has anything to remove."""
        with self._lock:
            older = min(self._sizes, default=until.file) < until.file
            return older or self._file < 0 or until.offset >= self._file_bytes // 4

    def release(self, until: Position) -> None:
        """Forget the files of which all events are acknowledged.

        Args:
            until: All before it is acknowledged.

        Raises:
            OSError: The disk fails.
        """
        with self._lock:
            done = [first for first in self._sizes if first < until.file]
            idle = self._file < 0 or not self._writing
            all_read = until.file in self._sizes and until.offset >= self._sizes[until.file]
            if idle and all_read and until.file == max(self._sizes):
                if self._file >= 0 and self._first == until.file:
                    if self._end < self._file_bytes // 4:
                        all_read = False  # a file a batch would cost more than it frees
                    else:
                        os.close(self._file)
                        self._file = -1
                if all_read:
                    done.append(until.file)
            for first in done:
                self._path(first).unlink(missing_ok=True)
                del self._sizes[first]

    def reject(self, payload: bytes) -> None:
        """Keep an event that the log will not take, in `rejected/`.

        Raises:
            OSError: The disk fails.
        """
        directory = self.directory / "rejected"
        durable.make_directories(directory)
        while not durable.create_durably(directory / f"{time.time_ns()}.binpb", payload):
            pass  # another was rejected in the same nanosecond

    def close(self, acknowledged: Position | None = None) -> None:
        """Close the files; if all was acknowledged, nothing stays to be sent again.

        Raises:
            OSError: The disk fails.
        """
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if acknowledged is not None:
            self.release(acknowledged)
        os.close(self._lock_file)


def open_spill(directory: Path, limit_bytes: int) -> Spill:
    """Open the first spill that no other process has: in `directory`, or in `<directory>-2` and so on.

    So several instances of a service share a data directory; what one leaves behind is sent by the next that takes its
    place.

    Raises:
        Unavailable: All places are taken, or the spill cannot be written.
        DataLoss: The producer's identity is damaged.
    """
    for number in range(1, _MOST_INSTANCES + 1):
        try:
            place = directory if number == 1 else directory.with_name(f"{directory.name}-{number}")
            return Spill(place, limit_bytes)
        except SpillInUse:
            continue
    raise Unavailable(f"{directory}: {_MOST_INSTANCES} processes have a spill there; use another data directory")

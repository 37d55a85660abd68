"""The log's bytes: preallocated files of framed records, and nothing else.

A file is named after its first sequence and begins with a header that says it too. Preallocation finds a full disk
before a record is half written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_audit.disk import Disk
from moltbot_mesh.audit import frames
from moltbot_mesh.audit.frames import HEADER_BYTES, Frame
from moltbot_mesh.errors import DataLoss, MoltbotError, NotFound, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAGIC = b"MBSEG\x00\x00\x02"
_HEADER = struct.Struct("<8sQ")
_ZEROS = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class Damage:
    """Something wrong in a segment."""

    path: Path
    offset: int
    sequence: int
    what: str

    def __str__(self) -> str:
        return f"{self.path.name} at byte {self.offset} (record {self.sequence}): {self.what}"


def segment_name(first: int) -> str:
    """The file name of a segment by its first sequence."""
    return f"{first:020d}.seg"


def segments(directory: Path) -> list[tuple[int, Path]]:
    """All segments, oldest first, with their first sequence."""
    return sorted((int(path.stem), path) for path in directory.glob("*.seg") if path.stem.isdigit())


def read(path: Path, first: int) -> Iterator[Frame | Damage]:
    """Read a segment to its end, past damaged places, which are yielded too."""
    data = path.read_bytes()
    if len(data) < _HEADER.size or _HEADER.unpack_from(data) != (MAGIC, first):
        yield Damage(path, 0, first, "the header is not that of this segment")
    for found in frames.read(data, _HEADER.size, first):
        yield Damage(path, found.offset, found.number, found.what) if isinstance(found, frames.Damage) else found


def read_at(path: Path, sequence: int, offset: int) -> bytes:
    """The payload of one record.

    Raises:
        DataLoss: It does not stand there.
        NotFound: Its segment has expired.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(4096)
            found = next(frames.read(data, 0, sequence), None)
            if not isinstance(found, Frame):
                data += file.read(frames.MAX_PAYLOAD_BYTES)
                found = next(frames.read(data, 0, sequence), None)
    except FileNotFoundError:
        raise NotFound(f"record {sequence} has expired") from None
    if not isinstance(found, Frame):
        raise DataLoss(f"{path.name} at byte {offset}: record {sequence} is damaged; `moltbot audit verify` tells more")
    return found.payload


class SegmentWriter:
    """Appends records to the newest segment; they are on disk when `append` returns. For one thread.

    Args:
        directory: Of the segments; made if it is not there.
        segment_bytes: Size of a file.
        sync: Whether `append` waits for the disk. Without it a power failure may cost what was acknowledged.
        disk: The operating system's, or a test's.
    """

    def __init__(self, directory: Path, segment_bytes: int, *, sync: bool = True, disk: Disk | None = None) -> None:
        self._disk = disk or Disk()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self._segment_bytes = segment_bytes
        self._sync = sync
        self.max_payload_bytes = min(frames.MAX_PAYLOAD_BYTES, segment_bytes - _HEADER.size - 2 * HEADER_BYTES - 8)
        self._file = -1
        self._first = 0
        """Of the newest segment."""
        self._offset = 0
        """Where the next record goes."""
        self._size = 0
        self._to_undo: tuple[int, int] | None = None
        """Newest segment and its end as they were before an append that failed."""
        self.next_sequence = 0

    def recover(self, covered: int) -> None:
        """Find the end of the log and cut off what a crash left half-written.

        Args:
            covered: Records that a signed checkpoint vouches for; none of them may be missing.

        Raises:
            DataLoss: Records are damaged or missing that were acknowledged.
            ResourceExhausted: The disk is full.
            Unavailable: The disk fails.
        """
        found = segments(self.directory)
        try:
            if not found:
                if covered:
                    raise DataLoss(f"{self.directory}: no segment is there, but a checkpoint covers {covered} records")
                self._start_segment(0)
                return
            first, path = found[-1]
            self._first, self.next_sequence, self._offset = first, first, _HEADER.size
            torn: Damage | None = None
            for item in read(path, first):
                if isinstance(item, Damage):
                    torn = torn or item
                elif torn is None:
                    self.next_sequence, self._offset = item.number + 1, item.end
                elif item.commit or torn.offset == 0:  # what stands before a commit, and a header, was synced before it
                    raise DataLoss(f"the audit log is damaged: {torn}; `moltbot audit verify` tells more")
            if self.next_sequence < covered:
                raise DataLoss(f"{path}: ends at record {self.next_sequence}, but a checkpoint covers {covered}")
            self._open(path, first)
        except OSError as error:
            raise _refusal(error) from error

    def _open(self, path: Path, first: int) -> None:
        self._close_file()
        self._file = self._disk.open(path)
        self._size = max(os.fstat(self._file).st_size, self._segment_bytes)
        self._write(_HEADER.pack(MAGIC, first), 0)
        os.ftruncate(self._file, self._offset)
        self._disk.allocate(self._file, self._size)
        self._disk.sync(self._file)

    def _start_segment(self, first: int) -> None:
        path = self.directory / segment_name(first)
        file = self._disk.create(path)
        try:
            self._disk.allocate(file, self._segment_bytes)
            _write_whole(self._disk, file, _HEADER.pack(MAGIC, first), 0)
            self._disk.sync(file)
            self._disk.sync_names(self.directory)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        self._close_file()
        self._file, self._first, self._offset, self._size = file, first, _HEADER.size, self._segment_bytes

    def append(self, payloads: Sequence[bytes]) -> list[tuple[int, int, int]]:
        """Write records and sync them: all or none. None is empty or larger than `max_payload_bytes`.

        Returns:
            Their places, each as the values of a `Place`.

        Raises:
            ResourceExhausted: The disk is full; nothing was taken.
            Unavailable: The disk fails; nothing was taken.
        """
        try:
            self._undo()
            self._to_undo = (self._first, self._offset)
            places = self._write_all(frames.encode(self.next_sequence, payloads, commit=self._sync))
        except OSError as error:
            with contextlib.suppress(OSError):  # tried again before the next append
                self._undo()
            raise _refusal(error) from error
        self._to_undo = None
        self.next_sequence += len(payloads)
        return places

    def _write_all(self, encoded: list[bytes]) -> list[tuple[int, int, int]]:
        places: list[tuple[int, int, int]] = []
        start = 0
        while start < len(encoded):
            segment, base, room = self._first, self._offset, self._size - HEADER_BYTES
            end, offset = start, base
            while end < len(encoded) and offset + len(encoded[end]) <= room:
                places.append((self.next_sequence + end, segment, offset))
                offset += len(encoded[end])
                end += 1
            if end == start:
                self._start_segment(self.next_sequence + start)
                continue
            self._write(b"".join(encoded[start:end]), base)
            if self._sync:
                self._disk.sync(self._file)
            self._offset, start = offset, end
        return places

    def _write(self, data: bytes, offset: int) -> None:
        _write_whole(self._disk, self._file, data, offset)

    def _undo(self) -> None:
        """Take back what a failed append wrote: its segments go, its bytes become zeros again."""
        if self._to_undo is None:
            return
        first, offset = self._to_undo
        for other, path in segments(self.directory):
            if other > first:
                self._disk.remove(path)
        path = self.directory / segment_name(first)
        if self._first != first or self._file < 0:
            self._close_file()
            self._file = self._disk.open(path)
            self._first, self._size = first, os.fstat(self._file).st_size
        self._offset = offset
        # The space is allocated, so this needs none. It ends with what was written: zeros follow that.
        data = os.pread(self._file, self._size - offset, offset)
        for start in range(0, len(data.rstrip(b"\0")), len(_ZEROS)):
            self._write(_ZEROS[: len(data) - start], offset + start)
        self._disk.sync(self._file)
        self._to_undo = None

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def close(self) -> None:
        """Close the file."""
        self._close_file()


def _write_whole(disk: Disk, file: int, data: bytes, offset: int) -> None:
    view, written = memoryview(data), 0
    while written < len(data):
        written += disk.write(file, view[written:], offset + written)


def _refusal(error: OSError) -> MoltbotError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(
            "the audit log's disk is full; free some space, nothing else is needed", reason="AUDIT_UNAVAILABLE"
        )
    return Unavailable(
        f"the audit log's disk fails ({error.strerror}); records are taken again when it works",
        reason="AUDIT_UNAVAILABLE",
    )

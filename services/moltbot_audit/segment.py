"""The log's bytes: preallocated files of CRC-framed records, and nothing else.

A frame is `u32 length | u32 crc | payload | zeros to a multiple of 8`, little-endian; the CRC covers the record's sequence
and its payload, so a record that was moved is found as one that was changed. A file begins with a header that names its
first sequence; a length of zero ends it. Preallocated zeros cost one `fallocate` and spare a metadata sync a commit.

Source: the layout follows etcd's WAL and Kafka's segments; CRC-32 as in RFC 1952.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_mesh.errors import DataLoss, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAGIC = b"MBSEG\x00\x00\x01"
_HEADER = struct.Struct("<8sQ")
_FRAME = struct.Struct("<II")
_SEQUENCE = struct.Struct("<Q")
MAX_RECORD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Damage:
    """Something wrong in a file."""

    path: Path
    offset: int
    sequence: int
    what: str

    def __str__(self) -> str:
        return f"{self.path.name} at byte {self.offset} (record {self.sequence}): {self.what}"


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record and where it stands."""

    sequence: int
    payload: bytes
    offset: int


def frame(sequence: int, payload: bytes) -> bytes:
    """The bytes of one record."""
    crc = zlib.crc32(payload, zlib.crc32(_SEQUENCE.pack(sequence)))
    padding = -len(payload) % 8
    return _FRAME.pack(len(payload), crc) + payload + b"\0" * padding


def _frame_size(length: int) -> int:
    return _FRAME.size + length + (-length % 8)


def segment_name(first: int) -> str:
    """The file name of a segment by its first sequence."""
    return f"{first:020d}.seg"


def segments(directory: Path) -> list[tuple[int, Path]]:
    """All segments, oldest first, with their first sequence."""
    found = [path for path in directory.glob("*.seg") if path.stem.isdigit()]
    return sorted((int(path.stem), path) for path in found)


def read(path: Path, first: int) -> Iterator[StoredRecord | Damage]:
    """Read a segment to its end; the last item is a `Damage` if it ends badly."""
    data = path.read_bytes()
    if len(data) < _HEADER.size or data[:8] != MAGIC or _HEADER.unpack_from(data)[1] != first:
        yield Damage(path, 0, first, "the header is not that of this segment")
        return
    offset, sequence = _HEADER.size, first
    while offset + _FRAME.size <= len(data):
        length, crc = _FRAME.unpack_from(data, offset)
        if length == 0 and crc == 0:
            if data.count(0, offset) != len(data) - offset:
                yield Damage(path, offset, sequence, "bytes after the end of the log")
            return
        end = offset + _FRAME.size + length
        if length > MAX_RECORD_BYTES or end > len(data):
            yield Damage(path, offset, sequence, "the record's length is not possible")
            return
        payload = data[offset + _FRAME.size : end]
        if zlib.crc32(payload, zlib.crc32(_SEQUENCE.pack(sequence))) != crc:
            yield Damage(path, offset, sequence, "the record's checksum does not match")
            return
        yield StoredRecord(sequence, payload, offset)
        offset += _frame_size(length)
        sequence += 1


def record_follows(damage: Damage) -> bool:
    """Whether an intact record stands behind a damaged place: then it is damage and not the torn end of a write."""
    data = damage.path.read_bytes()
    for offset in range(damage.offset + 8, len(data) - _FRAME.size, 8):
        length, crc = _FRAME.unpack_from(data, offset)
        end = offset + _FRAME.size + length
        if 0 < length <= MAX_RECORD_BYTES and end <= len(data):
            payload = data[offset + _FRAME.size : end]
            for ahead in range(1, 65):
                if zlib.crc32(payload, zlib.crc32(_SEQUENCE.pack(damage.sequence + ahead))) == crc:
                    return True
    return False


class SegmentWriter:
    """Appends records to the newest segment; a record is on disk when `append` returns.

    Args:
        directory: Of the segments; made if it is not there.
        segment_bytes: Size of a file.
    """

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._file = -1
        self._offset = 0
        self._size = 0
        self.next_sequence = 0

    def recover(self, covered: int) -> None:
        """Find the end of the log and cut off what a crash left half-written.

        Args:
            covered: Records that a signed checkpoint vouches for; none of them may be missing.

        Raises:
            DataLoss: Records are damaged or missing that were acknowledged.
        """
        found = segments(self._directory)
        if not found:
            if covered:
                raise DataLoss(f"{self._directory}: no segments, but a checkpoint covers {covered} records")
            self._start_segment(0)
            return
        first, path = found[-1]
        offset, sequence = _HEADER.size, first
        torn: Damage | None = None
        if path.stat().st_size >= _HEADER.size and path.read_bytes()[:8] == MAGIC:
            for item in read(path, first):
                if isinstance(item, Damage):
                    torn = item
                    break
                offset = item.offset + _frame_size(len(item.payload))
                sequence = item.sequence + 1
        elif len(found) > 1 or covered > first:
            torn = Damage(path, 0, first, "the header is not that of this segment")
        if torn is not None and (sequence < covered or record_follows(torn)):
            raise DataLoss(f"the audit log is damaged: {torn}; `moltbot audit verify` tells more")
        if sequence < covered:
            raise DataLoss(f"{path}: ends at record {sequence}, but a checkpoint covers {covered}")
        self._file = os.open(path, os.O_RDWR)
        self._size = max(os.fstat(self._file).st_size, self._segment_bytes)
        os.pwrite(self._file, _HEADER.pack(MAGIC, first), 0)
        os.ftruncate(self._file, offset)
        os.posix_fallocate(self._file, 0, self._size)
        os.fdatasync(self._file)
        self._offset, self.next_sequence = offset, sequence

    def _start_segment(self, first: int) -> None:
        path = self._directory / segment_name(first)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(file, 0, self._segment_bytes)
            os.pwrite(file, _HEADER.pack(MAGIC, first), 0)
            os.fdatasync(file)
        except OSError:
            os.close(file)
            path.unlink()
            raise
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._offset, self._size = file, _HEADER.size, self._segment_bytes
        self.next_sequence = first

    def append(self, payloads: Sequence[bytes]) -> int:
        """Write records and sync them.

        Returns:
            The sequence of the first.

        Raises:
            ResourceExhausted: The disk is full; nothing was taken.
            Unavailable: The disk fails; nothing was taken.
        """
        first = self.next_sequence
        frames = [frame(first + index, payload) for index, payload in enumerate(payloads)]
        try:
            start = 0
            while start < len(frames):
                end, size = start, 0
                while end < len(frames) and self._offset + size + len(frames[end]) + _FRAME.size <= self._size:
                    size += len(frames[end])
                    end += 1
                if end == start:
                    self._start_segment(first + start)
                    continue
                self._write(b"".join(frames[start:end]))
                os.fdatasync(self._file)
                self._offset += size
                self.next_sequence = first + end
                start = end
        except OSError as error:
            self._undo(first)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceExhausted("the audit log's disk is full", reason="AUDIT_UNAVAILABLE") from error
            raise Unavailable(f"the audit log's disk fails: {error.strerror}", reason="AUDIT_UNAVAILABLE") from error
        return first

    def _write(self, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], self._offset + written)

    def _undo(self, first: int) -> None:
        """Take back what a failed append wrote: the records before `first` stay, everything behind them goes."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        for start, path in reversed(segments(self._directory)):
            if start > first or (start == first and start > 0):
                path.unlink()
                continue
            offset = _HEADER.size
            for item in read(path, start):
                if isinstance(item, Damage) or item.sequence >= first:
                    break
                offset = item.offset + _frame_size(len(item.payload))
            self._file = os.open(path, os.O_RDWR)
            self._size = os.fstat(self._file).st_size
            # Zeros over what was written: the space stays allocated, so this needs none.
            os.pwrite(self._file, b"\0" * min(self._size - offset, 1 << 20), offset)
            self._offset, self.next_sequence = offset, first
            return

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

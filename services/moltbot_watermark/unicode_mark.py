"""The Unicode mark (layer L2): a frame of variation selectors, invisible, that names the answer a text came from.

A frame is 21 bytes, one selector a byte: VS1-16 (U+FE00-FE0F) are 0-15, VS17-256 (U+E0100-E01EF) are 16-255.

    version 1 | epoch 2 | mark id 4 | MAC 6 | Reed-Solomon parity 8

The version byte also says what was marked: 0xF1 is an answer, 0xF2 what the model thought before it; the MAC covers it,
so one cannot be turned into the other. It stands in clear as the sync mark: it is a selector for which no variation
sequence is registered, so it changes no glyph of the character before it. The rest is XORed with a fixed pad, for
otherwise the zero bytes of small epochs would always be selectors of the basic plane, which careless filters remove
first. The MAC is HMAC-SHA256, 48 bits, under the key of tenant and epoch. The parity mends 4 wrong bytes, or 8 lost
ones whose place is known.

What a mark survives, each tested: NFC and NFKC, collapse of white space, removal of format characters (category Cf),
UTF-8, UTF-16 and GB18030, four wrong selectors in a frame, two lost ones, a frame cut short by up to eight, and the
loss of all paragraphs but one. What kills it: removal of non-spacing marks (Mn) or of default-ignorable characters,
GBK, Big5, Latin-1, ASCII, OCR, retyping, translation, and any edit that drops the marked words. A mark can also be
copied onto another text: it proves where the mark came from, and only the registered fingerprint says whether the text
did too.

Source: Unicode Standard 16.0 section 23.4 (Variation Selectors) and StandardizedVariants.txt; RFC 2104 (HMAC); Reed and
Solomon, Polynomial Codes over Certain Finite Fields, 1960.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reedsolo import ReedSolomonError, RSCodec

from moltbot_watermark.output_kind import OutputKind

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSIONS = {OutputKind.ANSWER: 0xF1, OutputKind.REASONING: 0xF2}
"""First byte of a frame, by what it marks."""
MAX_EPOCH = 0xFFFF
MAX_MARK_ID = 0xFFFF_FFFF
MAC_BITS = 48
_MAC_BYTES = MAC_BITS // 8
_PARITY_BYTES = 8
_PAYLOAD_BYTES = 1 + 2 + 4 + _MAC_BYTES
FRAME_LENGTH = _PAYLOAD_BYTES + _PARITY_BYTES
"""Characters of a frame."""
_MAX_DELETIONS = 2
"""Lost selectors whose place is searched for: 210 places for two, 1,330 for three."""

_PAD = b"\0" + hashlib.blake2b(b"moltbot unicode mark v1", digest_size=FRAME_LENGTH - 1).digest()
_SELECTORS = tuple(chr(0xFE00 + value) if value < 16 else chr(0xE0100 + value - 16) for value in range(256))
_FIRST = "".join(_SELECTORS[version] for version in VERSIONS.values())
_CLASS = "[\ufe00-\ufe0f\U000e0100-\U000e01ef]"
_KINDS = {version: kind for kind, version in VERSIONS.items()}
_RUN = re.compile(f"{_CLASS}{{{FRAME_LENGTH - _PARITY_BYTES},}}")
_FRAME = re.compile(f"(?<!{_CLASS})[{_FIRST}]{_CLASS}{{{FRAME_LENGTH - 1}}}(?!{_CLASS})")
_CODEC = RSCodec(_PARITY_BYTES)


@dataclass(frozen=True, slots=True)
class Frame:
    """What a frame says; worth nothing until its MAC is checked."""

    epoch: int
    mark_id: int
    mac: bytes
    """6 bytes."""
    kind: OutputKind


@dataclass(frozen=True, slots=True)
class Run:
    """Selectors that stand together in a text, as bytes."""

    start: int
    """Index of the first, in code points."""
    data: bytes


def frame_text(key: bytes, epoch: int, mark_id: int, kind: OutputKind = OutputKind.ANSWER) -> str:
    """Build the frame of a mark.

    Args:
        key: Of the tenant and epoch, 32 bytes.
        epoch: 1 to 65,535.
        mark_id: 1 to 2^32 - 1.
        kind: Of the text that is marked.

    Returns:
        21 characters.

    Raises:
        ValueError: Epoch or mark id is out of range.
    """
    if not 1 <= epoch <= MAX_EPOCH or not 1 <= mark_id <= MAX_MARK_ID:
        raise ValueError(f"epoch {epoch} or mark id {mark_id} does not fit a frame")
    head = _head(kind, epoch, mark_id)
    coded = bytes(_CODEC.encode(head + _mac(key, head)))  # type: ignore[arg-type]
    return "".join(_SELECTORS[byte] for byte in _padded(coded))


def authentic(frame: Frame, key: bytes) -> bool:
    """Whether the frame was made with the key, in constant time."""
    head = _head(frame.kind, frame.epoch, frame.mark_id)
    return hmac.compare_digest(_mac(key, head), frame.mac)


def runs(text: str) -> Iterator[Run]:
    """Find runs of selectors that are long enough to be a frame, or what is left of one."""
    for match in _RUN.finditer(text):
        yield Run(match.start(), bytes(_byte(character) for character in match.group()))


def readings(data: bytes) -> Iterator[Frame | None]:
    """Read a run as a frame in every way that damage allows, the cheapest first.

    Args:
        data: Of a `Run`.

    Yields:
        One item for each attempt, so that the caller can bound them: a frame whose MAC is yet to be checked, or `None`.
    """
    starts = range(len(data) - FRAME_LENGTH + 1)
    for start in starts:
        if data[start] in _KINDS:
            yield _payload(_padded(data[start : start + FRAME_LENGTH])[:_PAYLOAD_BYTES])
    for start in starts:
        yield _mended(data[start : start + FRAME_LENGTH], ())
    lost = FRAME_LENGTH - len(data)
    if not 0 < lost <= _PARITY_BYTES:
        return
    places = [tuple(range(len(data), FRAME_LENGTH)), tuple(range(lost))]
    if lost <= _MAX_DELETIONS:
        places += [place for place in itertools.combinations(range(FRAME_LENGTH), lost) if place not in places]
    for place in places:
        filled = bytearray(data)
        for index in place:
            filled.insert(index, 0)
        yield _mended(bytes(filled), place)


def strip(text: str) -> str:
    """Remove the frames from a text: exactly what embedding put in.

    Only whole, undamaged frames go; other variation selectors are the text's own.
    """
    return _FRAME.sub(_nothing_if_frame, text)


def _nothing_if_frame(match: re.Match[str]) -> str:
    coded = _padded(bytes(_byte(character) for character in match.group()))
    whole = bytes(_CODEC.encode(coded[:_PAYLOAD_BYTES])) == coded  # type: ignore[arg-type]
    return "" if whole else match.group()


def _head(kind: OutputKind, epoch: int, mark_id: int) -> bytes:
    return bytes((VERSIONS[kind],)) + epoch.to_bytes(2) + mark_id.to_bytes(4)


def _mac(key: bytes, head: bytes) -> bytes:
    return hmac.digest(key, head, "sha256")[:_MAC_BYTES]


def _padded(data: bytes) -> bytes:
    return bytes(byte ^ pad for byte, pad in zip(data, _PAD, strict=True))


def _byte(selector: str) -> int:
    code = ord(selector)
    return code - 0xFE00 if code < 0xE0100 else code - 0xE0100 + 16


def _mended(data: bytes, lost: tuple[int, ...]) -> Frame | None:
    try:
        payload, _, _ = _CODEC.decode(_padded(data), erase_pos=list(lost))  # type: ignore[arg-type]
    except ReedSolomonError:
        return None
    return _payload(bytes(payload))


def _payload(payload: bytes) -> Frame | None:
    epoch = int.from_bytes(payload[1:3])
    mark_id = int.from_bytes(payload[3:7])
    kind = _KINDS.get(payload[0])
    if kind is None or epoch == 0 or mark_id == 0:
        return None
    return Frame(epoch, mark_id, payload[7:], kind)

"""Fingerprints of texts: an exact one and winnowed ones, all keyed, so the index tells nothing without the key.

Texts are compared without variation selectors, format characters, white space, case and compatibility forms. The exact
fingerprint is an HMAC of that; the winnowed ones are keyed hashes of some of its 16-character grams, chosen so that two
texts which share 63 characters in a row share at least one.

Source: Schleimer, Wilkerson, Aiken, Winnowing: Local Algorithms for Document Fingerprinting, SIGMOD 2003, section 3.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import itertools
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

GRAM = 16
WINDOW = 48
MIN_EXACT_CHARACTERS = 48
"""Shorter texts are written by chance by anybody: an equal fingerprint of one is no evidence by itself."""
MAX_GRAMS = 16_384
"""Winnowed fingerprints of one text; the rest of a very long one is covered by the exact one alone."""
MAX_CHARACTERS = 1 << 22
"""Of a text as it is compared; what comes after them is not. No text that can be looked up has more unless its
compatibility forms make it grow, one character to as many as eighteen."""
_PIECE_CHARACTERS = 4096
_LONGEST_PIECE = 4 * _PIECE_CHARACTERS
_IGNORED = re.compile(
    "[\ufe00-\ufe0f\U000e0100-\U000e01ef\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]+"
)
_MOST_MARKS = 30
"""Combining marks in a row that are compared: as many as a stream-safe text has (UAX #15, section 13)."""
_MULTIPLIER = 0x9E37_79B9_7F4A_7C15
_WORD = (1 << 64) - 1
_TOGETHER_CHARACTERS = 65_536
"""Of texts that are winnowed at once: some 3 MiB of numbers."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is kept of a text."""

    exact: bytes
    """16 bytes."""
    grams: frozenset[int]
    """Winnowed, signed 64 bits each."""
    characters: int
    """Of the text as it is compared."""


def normalised(text: str) -> str:
    """The text as it is compared."""
    if text.isascii():
        return "".join(text.lower().split())[:MAX_CHARACTERS]
    # Ignored characters go first, for one between a letter and its accent would keep them apart. Then what a long run
    # of marks has too many: putting it in order takes the square of its length, with the interpreter's lock held.
    safe = "".join(_cleaned(text))
    parts: list[str] = []
    room = MAX_CHARACTERS
    for piece in _pieces(safe):
        folded = unicodedata.normalize("NFKC", piece).casefold()
        parts.append("".join(unicodedata.normalize("NFKC", folded).split())[:room])
        room -= len(parts[-1])
        if not room:
            break
    return "".join(parts)


def _cleaned(text: str) -> Iterator[str]:
    """Without what is ignored and what a run of marks has too many, block by block: between them other threads run."""
    run = ""
    for begin in range(0, len(text), _PIECE_CHARACTERS):
        block = run + _IGNORED.sub("", text[begin : begin + _PIECE_CHARACTERS])
        cut = _long_run_of_marks().sub(_first_marks, block)
        yield cut[len(run) :]
        last = _marks_at_the_end().search(cut, max(0, len(cut) - _MOST_MARKS))
        run = last.group() if last else ""


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that normalise as the whole does: each lets other threads run, however much it grows.

    A piece has at most `_LONGEST_PIECE` characters, for no language writes as many without a beginning.
    """
    begin = 0
    while begin < len(text):
        longest = min(len(text), begin + _LONGEST_PIECE)
        found = _beginning().search(text, begin + _PIECE_CHARACTERS, longest)
        end = longest if found is None else found.start()
        yield text[begin:end]
        begin = end


@functools.cache
def _marks() -> str:
    """Marks, by what they decompose to: some of class 0 become two that are not."""
    return "".join(c for c in _plane() if _is_mark(unicodedata.normalize("NFKD", c)[0]))


@functools.cache
def _long_run_of_marks() -> re.Pattern[str]:
    return re.compile(f"[{_marks()}]{{{_MOST_MARKS + 1},}}")


@functools.cache
def _marks_at_the_end() -> re.Pattern[str]:
    return re.compile(rf"[{_marks()}]+\Z")


@functools.cache
def _beginning() -> re.Pattern[str]:
    """A character that joins none before it: no mark, and no second half of what is written as one."""
    pairs = (unicodedata.decomposition(c).split() for c in _plane())
    seconds = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and not pair[0].startswith("<")}
    seconds.update(map(chr, (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))))  # Hangul vowels and finals
    first = ((c, unicodedata.normalize("NFKD", c)[0]) for c in _plane())
    return re.compile(f"[^{''.join(c for c, start in first if _is_mark(start) or start in seconds)}]")


def _plane() -> Iterator[str]:
    return (chr(code) for code in range(0x300, 0x20000) if not 0xD800 <= code < 0xE000)


def _is_mark(character: str) -> bool:
    return unicodedata.combining(character) != 0


def _first_marks(run: re.Match[str]) -> str:
    return run.group()[:_MOST_MARKS]


def fingerprint(text: str, key: bytes) -> Fingerprint:
    """Take the fingerprint of a text.

    Args:
        text: With or without a mark.
        key: 32 bytes, the same for all texts that are to be compared.
    """
    return fingerprints((text,), key)[0]


def fingerprints(texts: Sequence[str], key: bytes) -> list[Fingerprint]:
    """Take the fingerprints of several texts; short ones cost a third of what each would alone.

    Args:
        texts: With or without marks.
        key: As for `fingerprint`.
    """
    plains = [normalised(text) for text in texts]
    return [
        # Lone surrogates cannot come over the wire, but must not break a caller that reads files.
        Fingerprint(
            hmac.digest(key, plain.encode("utf-8", "surrogatepass"), "sha256")[:16],
            frozenset(_keyed(gram, key) for gram in itertools.islice(grams, MAX_GRAMS)),
            len(plain),
        )
        for plain, grams in zip(plains, _winnowed(plains), strict=True)
    ]


def _keyed(gram: str, key: bytes) -> int:
    digest = hashlib.blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
    return int.from_bytes(digest, signed=True)


def _winnowed(plains: Sequence[str]) -> list[dict[str, None]]:
    """Of each text the grams whose hash is the least of some window, in order."""
    found: list[dict[str, None]] = [{} for _ in plains]
    together: list[int] = []
    characters = 0
    for index, plain in enumerate(plains):
        if len(plain) < GRAM + WINDOW - 1:
            # The only window is the text.
            if len(plain) >= GRAM:
                _choose([plain], len(plain) - GRAM + 1, [found[index]])
            continue
        together.append(index)
        characters += len(plain)
        if characters > _TOGETHER_CHARACTERS:
            _choose([plains[i] for i in together], WINDOW, [found[i] for i in together])
            together, characters = [], 0
    if together:
        _choose([plains[i] for i in together], WINDOW, [found[i] for i in together])
    return found


def _choose(plains: Sequence[str], window: int, found: Sequence[dict[str, None]]) -> None:
    """Winnow texts of at least one window each, written one after the other."""
    joined = "".join(plains)
    hashes = _hashes(joined)
    least = _sliding(hashes, window, np.minimum)
    starts = list(itertools.accumulate(map(len, plains), initial=0))
    for end in starts[1:-1]:
        # Windows that reach from one text into the next are none; a hash is never less than 0.
        least[end - window - GRAM + 2 : end] = 0
    # A gram is no less than any window that holds it, so it is the least of one where it equals the greatest of theirs.
    around = np.zeros(window - 1, dtype=np.uint64)
    chosen = np.flatnonzero(hashes == _sliding(np.concatenate((around, least, around)), window, np.maximum))
    text = 0
    for at in chosen.tolist():
        while at >= starts[text + 1]:
            text += 1
        found[text][joined[at : at + GRAM]] = None


def _hashes(plain: str) -> NDArray[np.uint64]:
    """A hash of each gram: the polynomial of its characters, by those of half the length, mixed."""
    hashes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    size, factor = 1, _MULTIPLIER
    while size < GRAM:
        hashes = hashes[:-size] * np.uint64(factor) + hashes[size:]
        size, factor = 2 * size, factor * factor & _WORD
    # Mixed (the finaliser of splitmix64), for the polynomial's low bits alone would choose by the last characters.
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    hashes ^= hashes >> np.uint64(31)
    return hashes


def _sliding(values: NDArray[np.uint64], window: int, extreme: np.ufunc) -> NDArray[np.uint64]:
    """The least or greatest of each window, by windows of twice the size from windows of half."""
    size = 1
    while size * 2 <= window:
        values = extreme(values[:-size], values[size:])
        size *= 2
    rest = window - size
    return extreme(values[:-rest], values[rest:]) if rest else values

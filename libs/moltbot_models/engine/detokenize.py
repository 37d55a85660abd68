"""Turns tokens into text as they come: whole characters only, stop strings held back."""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any, cast

from moltbot_models.engine.config import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's printable stand-ins for the 256 bytes.

    Source: openai/gpt-2, encoder.py, bytes_to_unicode.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


class Vocabulary:
    """The bytes that each token stands for.

    Working on bytes makes streaming exact: a character that spans tokens appears when its last byte has come.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Read the tokenizer's decoder.

        Raises:
            EngineError: `MODEL_UNSUPPORTED` naming a decoder that is neither byte-level nor of SentencePiece's kind.
        """
        self._tokenizer = tokenizer
        self._cache: dict[int, bytes] = {}
        self._alphabet = _byte_alphabet()
        added = tokenizer.get_added_tokens_decoder()
        self._added = {token: entry.content for token, entry in added.items()}
        self.special = frozenset(token for token, entry in added.items() if entry.special)
        """Tokens that are not part of the text."""
        kinds = _decoder_kinds(json.loads(tokenizer.to_str()).get("decoder"))
        if "ByteLevel" in kinds:
            self._byte_level = True
        elif kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
            self._byte_level = False
        else:
            raise EngineError(
                "MODEL_UNSUPPORTED",
                f"tokenizer.json: decoder {', '.join(sorted(kinds)) or 'none'} is not built "
                "(built are ByteLevel and SentencePiece's Replace, ByteFallback, Fuse, Strip, Metaspace)",
            )

    def bytes_of(self, token: int) -> bytes:
        """Return a token's bytes; none for an id beyond the tokenizer (padding of the matrix)."""
        found = self._cache.get(token)
        if found is None:
            found = self._cache[token] = self._bytes_of(token)
        return found

    def _bytes_of(self, token: int) -> bytes:
        added = self._added.get(token)
        if added is not None:
            return added.encode()
        piece = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if self._byte_level:
            return bytes(self._alphabet[char] for char in piece if char in self._alphabet)
        match = _BYTE_TOKEN.fullmatch(piece)
        return bytes([int(match.group(1), 16)]) if match else piece.replace("\u2581", " ").encode()


def _decoder_kinds(decoder: dict[str, Any] | None) -> set[str]:
    if decoder is None:
        return set()
    if decoder["type"] == "Sequence":
        return {str(one["type"]) for one in cast("list[dict[str, Any]]", decoder["decoders"])}
    return {str(decoder["type"])}


class Detokenizer:
    """The text of one sequence, token by token.

    Args:
        vocabulary: The tokens' bytes.
        shown: Special tokens that are text here all the same, because a parser reads them.
    """

    def __init__(self, vocabulary: Vocabulary, shown: frozenset[int] = frozenset()) -> None:
        self._vocabulary = vocabulary
        self._hidden = vocabulary.special - shown
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Return the characters that this token completes, often one word, sometimes nothing."""
        if token in self._hidden:
            return ""
        return self._decoder.decode(self._vocabulary.bytes_of(token))

    def finish(self) -> str:
        """Return a replacement character if the answer ended within a character, else nothing."""
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Ends the text before the first stop string; holds back what may turn out to begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False
        """Whether a stop string has been found."""

    @property
    def any(self) -> bool:
        """Whether there is a string to look for."""
        return bool(self._stops)

    @property
    def held(self) -> str:
        """What is held back."""
        return self._held

    def push(self, text: str) -> str:
        """Return the text that is certain to be part of the answer."""
        if not self._stops:
            return text
        text = self._held + text
        found = min((place for stop in self._stops if (place := text.find(stop)) >= 0), default=-1)
        if found >= 0:
            self.stopped, self._held = True, ""
            return text[:found]
        held = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """Return what was held back: no stop string has come of it."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)

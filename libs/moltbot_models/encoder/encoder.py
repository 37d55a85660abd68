"""Texts to vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moltbot_models.encoder.config import EncoderConfig
from moltbot_models.encoder.runtime import EncoderRuntime

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from tokenizers import Encoding


class Encoder:
    """A sentence encoder on this machine's CPU; made by `load`. Thread-safe: calls take turns."""

    def __init__(self, runtime: EncoderRuntime) -> None:
        self.runtime = runtime
        self._tokenizer = runtime.tokenizer
        self._tokenizer.enable_truncation(runtime.max_tokens)

    @classmethod
    def load(cls, path: Path, config: EncoderConfig | None = None) -> Encoder:
        """Read a sentence encoder and compile it. Blocks for about half a second.

        Args:
            path: Directory with config.json, model.safetensors and tokenizer.json; 1_Pooling/config.json says how the
                tokens' vectors become one (their mean without it).
            config: How it is run; the defaults if None.

        Raises:
            EncoderError: The directory is damaged, holds another kind of model or, for int8, no ranges.
        """
        return cls(EncoderRuntime.load(path, "embedding", config or EncoderConfig()))

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that are read."""
        return self.runtime.max_tokens

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""
        return self.runtime.shape.hidden

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Embed texts; long ones are cut at the model's limit.

        Returns:
            Vectors, float32 [texts, dimensions], of length 1, in the order of the texts (of a text without a token,
            which only tokenizers without special ones make, zeros); and the tokens of all texts.
        """
        vectors, tokens = self.embed_counted(texts)
        return vectors, int(tokens.sum())

    def embed_counted(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """As `embed`, with the tokens of each text, int32 [texts]."""
        rows = self.rows(texts)
        return self.runtime.run(rows), np.array([len(row.ids) for row in rows], np.int32)

    def rows(self, texts: Sequence[str]) -> list[Encoding]:
        """What the model is run on, cut at its limit."""
        read = [text[: self.runtime.characters] for text in texts]
        return self._tokenizer.encode_batch(read) if texts else []

"""What config.json and the files of sentence-transformers say of an encoder; the rest of them is refused by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from moltbot_models.encoder.config import EncoderError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Head = Literal["embedding", "classifier"]
Family = Literal["bert", "roberta"]
Pooling = Literal["mean", "cls"]

_FAMILIES: dict[object, Family] = {"bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta"}


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """The numbers that the graph needs."""

    family: Family
    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    positions: int
    """Rows of the position embeddings."""
    first_position: int
    """Row of the first token: RoBERTa counts from behind its padding token."""
    kinds: int
    """Rows of the token type embeddings."""
    norm_epsilon: float
    labels: int = 0
    """Classes of the head; 0 for an encoder that makes vectors."""
    pooling: Pooling = "mean"

    @property
    def max_tokens(self) -> int:
        """Tokens that have a position."""
        return self.positions - self.first_position

    @property
    def takes_kinds(self) -> bool:
        """Whether the first text of a pair is told from the second by token types."""
        return self.labels > 0 and self.kinds > 1

    @classmethod
    def read(cls, path: Path, head: Head = "embedding") -> EncoderShape:
        """Read config.json and, for vectors, 1_Pooling/config.json.

        Raises:
            EncoderError: It is not an encoder of the kind that is built here.
        """
        config = read_json(path / "config.json")
        if config is None:
            raise EncoderError("config.json is missing")
        return cls.of(config, head, "mean" if head == "classifier" else _pooling(path))

    @classmethod
    def of(cls, config: Mapping[str, object], head: Head = "embedding", pooling: Pooling = "mean") -> EncoderShape:
        """Read the content of config.json.

        Raises:
            EncoderError: It is not an encoder of the kind that is built here.
        """
        family = _FAMILIES.get(config.get("model_type"))
        if family is None or config.get("hidden_act") != "gelu":
            raise EncoderError("config.json: only BERT and (XLM-)RoBERTa encoders with the gelu activation are built")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise EncoderError("config.json: only absolute position embeddings are built")

        def number(key: str) -> int:
            value = config.get(key)
            if type(value) is not int or value < 1:
                raise EncoderError(f"config.json: {key} must be a positive integer")
            return value

        padding = config.get("pad_token_id", 1)
        if family == "roberta" and (type(padding) is not int or padding < 0):
            raise EncoderError("config.json: pad_token_id must be a whole number")
        epsilon = config.get("layer_norm_eps")
        shape = cls(
            family=family,
            hidden=number("hidden_size"),
            intermediate=number("intermediate_size"),
            layers=number("num_hidden_layers"),
            heads=number("num_attention_heads"),
            vocabulary=number("vocab_size"),
            positions=number("max_position_embeddings"),
            first_position=cast("int", padding) + 1 if family == "roberta" else 0,
            kinds=number("type_vocab_size") if "type_vocab_size" in config else 2,
            norm_epsilon=float(epsilon) if isinstance(epsilon, float) else 1e-12,
            labels=len(labels_of(config)) if head == "classifier" else 0,
            pooling=pooling,
        )
        if shape.hidden % shape.heads:
            raise EncoderError("config.json: hidden_size must be a multiple of num_attention_heads")
        if shape.max_tokens < 1:
            raise EncoderError("config.json: max_position_embeddings leaves no position behind pad_token_id")
        return shape


def labels_of(config: Mapping[str, object]) -> tuple[str, ...]:
    """The names of the classes in the order of the logits; transformers' default names where there are none.

    Raises:
        EncoderError: id2label is not a mapping from 0, 1, … to names.
    """
    names = config.get("id2label")
    if names is None:
        count = config.get("num_labels", 2)
        if type(count) is not int or not 1 <= count <= _MAX_LABELS:
            raise EncoderError(f"config.json: num_labels must be 1 to {_MAX_LABELS}")
        return tuple(f"LABEL_{n}" for n in range(count))
    if not isinstance(names, dict) or not 1 <= len(cast("dict[object, object]", names)) <= _MAX_LABELS:
        raise EncoderError(f"config.json: id2label must name 1 to {_MAX_LABELS} classes")
    by_number = {str(key): str(value) for key, value in cast("dict[object, object]", names).items()}
    try:
        return tuple(by_number[str(n)] for n in range(len(by_number)))
    except KeyError:
        raise EncoderError("config.json: the keys of id2label must be 0, 1, 2 …") from None


_MAX_LABELS = 4096


def read_json(file: Path) -> dict[str, object] | None:
    """An object from a file, or None where there is no such file.

    Raises:
        EncoderError: It cannot be read.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EncoderError(f"{file.name} cannot be read: {type(error).__name__}; copy it again") from error
    if not isinstance(found, dict):
        raise EncoderError(f"{file.name} must hold a JSON object")
    return cast("dict[str, object]", found)


def _pooling(path: Path) -> Pooling:
    """How sentence-transformers makes one vector of many; the mean where the directory does not say."""
    config = read_json(path / "1_Pooling" / "config.json")
    if config is None:
        return "mean"
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if modes == ["pooling_mode_mean_tokens"]:
        return "mean"
    if modes == ["pooling_mode_cls_token"]:
        return "cls"
    raise EncoderError(
        f"1_Pooling/config.json: built are the mean and the first token, not {', '.join(modes) or 'none'}"
    )

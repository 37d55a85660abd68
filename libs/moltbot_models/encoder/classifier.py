"""Texts or pairs of texts to classes: cross-encoders that rerank, and classifiers.

Source: Nogueira and Cho 2019, Passage Re-ranking with BERT, arXiv:1901.04085.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from moltbot_models.encoder.config import EncoderConfig, EncoderError
from moltbot_models.encoder.rows import pair_rows, text_rows
from moltbot_models.encoder.runtime import EncoderRuntime
from moltbot_models.encoder.shape import labels_of, read_json
from moltbot_models.engine.config import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from tokenizers import Encoding

Activation = Literal["identity", "sigmoid", "softmax"]


class Classifier:
    """A `*ForSequenceClassification` on this machine's CPU; made by `load`. Thread-safe: calls take turns."""

    def __init__(self, runtime: EncoderRuntime, labels: tuple[str, ...], activation: Activation) -> None:
        self.runtime = runtime
        self.labels = labels
        """The classes' names, in the order of the scores."""
        self.activation: Activation = activation
        """What makes scores of logits."""

    @classmethod
    def load(cls, path: Path, config: EncoderConfig | None = None) -> Classifier:
        """Read a classifier or cross-encoder and compile it. Blocks for about half a second.

        Raises:
            EncoderError: The directory is damaged or holds another kind of model or, for int8, no ranges.
        """
        runtime = EncoderRuntime.load(path, "classifier", config or EncoderConfig())
        described = read_json(path / "config.json") or {}
        return cls(runtime, labels_of(described), _activation(described))

    def classify(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Score every class for each text; long ones are cut at the model's limit.

        Returns:
            Scores, float32 [texts, classes]: probabilities that add up to 1, or each for itself where the model is of
            several labels; and the tokens of each text, int32 [texts].
        """
        return self.score(self.rows(texts))

    def rows(self, texts: Sequence[str]) -> list[Encoding]:
        """What `score` takes of texts alone."""
        return text_rows(self.runtime.tokenizer, texts, self.runtime.max_tokens)

    def rerank(self, query: str, documents: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Score how well documents answer a query; a document that is too long is cut, the query never.

        Returns:
            Scores, float32 [documents], the best the highest; and the tokens of each pair, int32 [documents].

        Raises:
            EngineError: As `pairs`.
        """
        scores, tokens = self.score(self.pairs(query, documents))
        return scores.reshape(-1), tokens

    def pairs(self, query: str, documents: Sequence[str]) -> list[Encoding]:
        """What `score` takes of a query with documents.

        Raises:
            EngineError: `REQUEST_TOO_LARGE` if the query leaves no room for a document, `MODEL_UNSUPPORTED` if the
                model has more than one class.
        """
        if len(self.labels) != 1:
            raise EngineError("MODEL_UNSUPPORTED", f"reranking needs a model of one class, this has {len(self.labels)}")
        return pair_rows(self.runtime.tokenizer, query, documents, self.runtime.max_tokens)

    def score(self, rows: Sequence[Encoding]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Score rows of `rows` and `pairs`, which may belong to many requests.

        Returns:
            Scores, float32 [rows, classes], and the tokens of each row, int32 [rows].
        """
        counts = np.array([len(row.ids) for row in rows], np.int32)
        return _activated(self.runtime.run(rows), self.activation), counts


def _activated(logits: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    if activation == "identity":
        return logits
    if activation == "sigmoid":
        return (1 / (1 + np.exp(-np.clip(logits, -80, 80)))).astype(np.float32)
    raised = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    return raised / raised.sum(-1, keepdims=True)


def _activation(config: Mapping[str, object]) -> Activation:
    """As sentence-transformers and transformers choose it: what the model says, else by the number of classes."""
    own = config.get("sentence_transformers")
    named = str(cast("dict[str, object]", own).get("activation_fn", "")) if isinstance(own, dict) else ""
    if named:
        kind = named.rsplit(".", 1)[-1].removesuffix("()").lower()
        if kind not in get_args(Activation):
            raise EncoderError(
                f"config.json: the activation {named} is not built; {', '.join(get_args(Activation))} are"
            )
        return cast("Activation", kind)
    if len(labels_of(config)) == 1 or config.get("problem_type") == "multi_label_classification":
        return "sigmoid"
    return "softmax"

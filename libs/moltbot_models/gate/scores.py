"""The gate of rerankers and classifiers: the same order, the same class, and probabilities that are near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from moltbot_models.gate.report import Check, GateReport, hash_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from moltbot_models.encoder import Classifier

_QUERIES = 8
"""Of each set: its shortest texts ask, all of its texts answer."""


class Scoring(Protocol):
    """What is asked of a model under test; `Classifier` is one."""

    def classify(self, texts: Sequence[str], /) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Scores of texts, f32 [texts, classes], and their tokens."""
        ...

    def rerank(self, query: str, documents: Sequence[str], /) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Scores of documents, f32 [documents], and their tokens."""
        ...


@dataclass(frozen=True, slots=True)
class ScoreBounds:
    """What a reranker or classifier must keep of its reference."""

    rank_correlation: float = 0.99
    """Spearman's, of a query's documents, mean over queries. A trained head on MiniLM-L6 keeps 0.999 in BF16."""
    label_agreement: float = 0.98
    """Share of texts whose likeliest class is the same. A trained head of 5 classes on MiniLM-L6, right in 74 of 100
    cases, keeps all in BF16, 99 % in INT8 within its budget, and 97.7 % with every group in INT8."""
    probability_error_mean: float = 0.005
    """Of a class's probability, mean over texts and classes; of the same head 0.0005, 0.0016 and 0.0068."""


@dataclass(frozen=True, slots=True)
class ClassifierUnderTest:
    """A reranker or classifier beside its reference."""

    model: str
    model_sha256: str
    precision: str
    classifier: Scoring
    reference: Classifier
    """The same in FP32."""


def judge_scores(
    subject: ClassifierUnderTest,
    calibration: Sequence[str],
    held_out: Sequence[str],
    bounds: ScoreBounds | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> GateReport:
    """Measure a reranker (one class) or a classifier; arguments and errors are those of `judge_encoder`. Blocks."""
    bounds = bounds or ScoreBounds()
    checks: list[Check] = []
    for place, (name, texts) in enumerate({"calibration": calibration, "held_out": held_out}.items()):
        if progress is not None:
            progress(f"scores of {name}", place / 2)
        if len(subject.reference.labels) == 1:
            queries = sorted(texts, key=len)[:_QUERIES]
            found = [
                _rank_correlation(subject.reference.rerank(query, texts)[0], subject.classifier.rerank(query, texts)[0])
                for query in queries
            ]
            value = float(np.mean(found))
            checks.append(Check("rank_correlation", name, value, bounds.rank_correlation, "at_least", len(queries)))
            continue
        exact, near = subject.reference.classify(texts)[0], subject.classifier.classify(texts)[0]
        same = float((exact.argmax(1) == near.argmax(1)).mean())
        error = float(np.abs(exact - near).mean(dtype=np.float64))
        checks += [
            Check("label_agreement", name, same, bounds.label_agreement, "at_least", len(texts)),
            Check("probability_error_mean", name, error, bounds.probability_error_mean, "at_most", len(texts)),
        ]
    if progress is not None:
        progress("done", 1.0)
    texts_sha256 = hash_of(calibration, held_out)
    return GateReport(subject.model, subject.model_sha256, subject.precision, "f32", texts_sha256, tuple(checks))


def _rank_correlation(exact: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Spearman's rank correlation of two scores of the same documents."""
    ranks = [np.argsort(np.argsort(scores, kind="stable"), kind="stable") for scores in (exact, found)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])

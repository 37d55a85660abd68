"""The gate of sentence encoders: cosine to the FP32 vectors, and whether the nearest texts stay the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moltbot_mesh.errors import InvalidArgument
from moltbot_models.gate.report import Check, GateReport, hash_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Embed = Callable[[Sequence[str]], NDArray[np.float32]]

_CHUNK = 64


@dataclass(frozen=True, slots=True)
class EncoderBounds:
    """What a quantised encoder must keep of its reference."""

    cosine_mean: float = 0.9995
    cosine_min: float = 0.995
    """Of the worst text."""
    top_k_agreement: float = 0.99
    """Share of a text's nearest neighbours that are still among them, mean over texts. BF16 itself keeps 99.3 to 99.5 %
    of MiniLM-L6's, so there is little room below."""
    k: int = 10


@dataclass(frozen=True, slots=True)
class EncoderUnderTest:
    """A quantised encoder beside its reference."""

    model: str
    model_sha256: str
    precision: str
    embed: Embed
    """Texts to vectors of length 1, f32 [texts, dimensions]."""
    reference: Embed
    """The same in FP32."""


def judge_encoder(
    subject: EncoderUnderTest,
    calibration: Sequence[str],
    held_out: Sequence[str],
    bounds: EncoderBounds | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> GateReport:
    """Measure an encoder on texts it was calibrated with and on texts it was not. Blocks.

    Neighbours of a text are looked for among all texts of both sets, itself left out; the figure is told for each set.

    Args:
        subject: What is judged.
        calibration: Texts that its ranges were found on.
        held_out: Others.
        bounds: What is demanded; the defaults if None.
        progress: Told what is at work and the share that is done, 0 to 1.

    Raises:
        InvalidArgument: There are too few texts for k neighbours, or none in a set.
    """
    bounds = bounds or EncoderBounds()
    texts = [*calibration, *held_out]
    if not calibration or not held_out or len(texts) <= bounds.k or bounds.k < 1:
        raise InvalidArgument(
            f"the gate needs calibration and held-out texts, together more than k = {bounds.k}; there are "
            f"{len(calibration)} and {len(held_out)}"
        )
    sides = {subject.precision: subject.embed, "reference": subject.reference}
    vectors: dict[str, NDArray[np.float32]] = {}
    for place, (name, embed) in enumerate(sides.items()):
        parts: list[NDArray[np.float32]] = []
        for begin in range(0, len(texts), _CHUNK):
            if progress is not None:
                progress(f"vectors of {name}", (place + begin / len(texts)) / len(sides))
            parts.append(embed(texts[begin : begin + _CHUNK]))
        vectors[name] = np.concatenate(parts)
    found, exact = vectors[subject.precision], vectors["reference"]
    cosine = (found * exact).sum(1, dtype=np.float64)
    kept = agreement(exact, found, bounds.k)
    checks: list[Check] = []
    for name, part in (
        ("calibration", slice(0, len(calibration))),
        ("held_out", slice(len(calibration), len(texts))),
    ):
        samples = len(cosine[part])
        checks += [
            Check("cosine_mean", name, float(cosine[part].mean()), bounds.cosine_mean, "at_least", samples),
            Check("cosine_min", name, float(cosine[part].min()), bounds.cosine_min, "at_least", samples),
            Check(
                f"top_{bounds.k}_agreement", name, float(kept[part].mean()), bounds.top_k_agreement, "at_least", samples
            ),
        ]
    if progress is not None:
        progress("done", 1.0)
    return GateReport(
        subject.model, subject.model_sha256, subject.precision, "f32", hash_of(calibration, held_out), tuple(checks)
    )


def agreement(exact: NDArray[np.float32], found: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """The share of each row's k nearest rows by cosine that are the same in two sets of vectors, f64 [rows].

    Args:
        exact: Vectors of length 1, f32 [rows, dimensions], rows > k.
        found: As many, of the same texts.
        k: Neighbours, the row itself not among them.
    """
    shares = np.empty(len(exact), np.float64)
    for begin in range(0, len(exact), 512):
        rows = np.arange(begin, min(begin + 512, len(exact)))
        nearest: list[NDArray[np.intp]] = []
        for vectors in (exact, found):
            scores = vectors[rows] @ vectors.T
            scores[np.arange(len(rows)), rows] = -np.inf
            nearest.append(np.argpartition(-scores, k - 1, axis=1)[:, :k])
        same = (nearest[0][:, :, None] == nearest[1][:, None, :]).any(2)
        shares[rows] = same.mean(1)
    return shares

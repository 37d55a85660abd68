"""INT8 linear layers: ranges of activations found by calibration, and weights rounded against them.

An activation x is stored as round((x - shift) / scale * 127 / bound), its channels brought to like size by `scale`, so
that the few that are large do not take the steps of the others; weights take the scale in and are rounded per row. The
mean of what rounding the weights costs is known from calibration and goes into the bias.

Source: Xiao et al. 2023, SmoothQuant, arXiv:2211.10438; Wei et al. 2023, Outlier Suppression+, arXiv:2304.09145
(shift); Nagel et al. 2019, Data-Free Quantization, arXiv:1906.04721 (bias correction).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from moltbot_models.encoder.config import EncoderError
from moltbot_models.encoder.processor import INT8_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

RANGES_FILE = "moltbot-int8.json"
"""Beside the weights that were calibrated."""
_VERSION = 1
_SMOOTHING = 0.85
"""How much of a channel's size is taken from the activations to the weights. Of .5, .7, .85 and 1 it lost least on the
whole on MiniLM-L6; single layers differ."""
_SMALL = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class LinearRange:
    """The activations that enter a group of linear layers; arrays are f32 [channels]."""

    shift: NDArray[np.float32]
    """Middle of each channel."""
    scale: NDArray[np.float32]
    mean: NDArray[np.float32]
    """Of each channel, for the correction of the bias."""
    bound: float
    """Largest magnitude after shift and scale."""

    @classmethod
    def measured(cls, seen: NDArray[np.float32], weights: Sequence[NDArray[np.float32]]) -> LinearRange:
        """The range of activations f32 [tokens, channels] for weights f32 [rows, channels] that all take them.

        Nothing is clipped: leaving a ten-thousandth of the values out of the range made the cost before the attention
        five times as large on MiniLM-L6, and the bound of least squared error was worse still behind the activation.
        """
        shift = (seen.max(0) + seen.min(0)) / 2
        reach = np.maximum(np.abs(seen - shift).max(0), _SMALL)
        heavy = np.maximum(np.max([np.abs(weight).max(0) for weight in weights], axis=0), _SMALL)
        scale = reach**_SMOOTHING / heavy ** (1 - _SMOOTHING)
        scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
        return cls(
            shift.astype(np.float32),
            scale,
            seen.mean(0, dtype=np.float64).astype(np.float32),
            float((reach / scale).max()),
        )


def quantized_linear(
    weight: NDArray[np.float32], bias: NDArray[np.float32], span: LinearRange, largest: int = INT8_MAX
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
    """Round a layer's weights for activations of a range, to codes of at most `largest`.

    Returns:
        Codes, int8 [rows, channels]; the step of each row, f32 [rows, 1]; and the bias, f32 [rows], that takes in the
        shift and the mean of the rounding.
    """
    scaled = weight.astype(np.float64) * span.scale
    steps = np.maximum(np.abs(scaled).max(1, keepdims=True), 1e-12) / largest
    codes = np.clip(np.round(scaled / steps), -largest, largest)
    lost = (codes * steps - scaled) @ ((span.mean - span.shift) / span.scale)
    corrected = bias + weight @ span.shift - lost
    return codes.astype(np.int8), steps.astype(np.float32), corrected.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class EncoderRanges:
    """What calibration found: the layers to run in INT8, for the weights of one file."""

    weights_sha256: str
    """Of the model.safetensors that was calibrated."""
    texts_sha256: str
    """Of the texts, joined by line ends."""
    groups: Mapping[str, LinearRange]
    """By group of linear layers; what is not here stays in BF16 or FP32."""
    costs: Mapping[str, float]
    """1 - mean cosine to FP32 with that group alone in INT8, for all that were tried."""

    def to_json(self) -> str:
        """The artifact's text; numbers have seven digits, which float32 holds."""
        groups = {
            name: {key: [float(f"{x:.7g}") for x in getattr(span, key).tolist()] for key in ("shift", "scale", "mean")}
            | {"bound": span.bound}
            for name, span in self.groups.items()
        }
        tree = {
            "version": _VERSION,
            "weights_sha256": self.weights_sha256,
            "texts_sha256": self.texts_sha256,
            "costs": dict(self.costs),
            "groups": groups,
        }
        return json.dumps(tree, separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EncoderRanges:
        """The inverse of `to_json`.

        Raises:
            ValueError: This is not such a text.
        """
        try:
            tree = cast("dict[str, Any]", json.loads(text))
            if tree["version"] != _VERSION:
                raise ValueError(f"version {tree['version']!r}; this release reads {_VERSION}")
            groups = {str(name): _range(entry) for name, entry in tree["groups"].items()}
            costs = {str(name): float(cost) for name, cost in tree["costs"].items()}
            return cls(str(tree["weights_sha256"]), str(tree["texts_sha256"]), groups, costs)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not ranges as moltbot writes them: {error}") from error


def read_ranges(file: Path, weights_sha256: str) -> EncoderRanges:
    """Read the artifact of a model.

    Raises:
        EncoderError: It is not there, cannot be read or belongs to other weights.
    """
    mend = "calibrate the model anew (moltbot_models.encoder.calibrate) or serve it with precision=auto"
    try:
        found = EncoderRanges.from_json(file.read_text("utf-8"))
    except FileNotFoundError:
        raise EncoderError(f"{file}: int8 needs calibrated ranges and there are none; {mend}") from None
    except (OSError, ValueError) as error:
        raise EncoderError(f"{file}: the calibrated ranges cannot be read: {error}; {mend}") from error
    if found.weights_sha256 != weights_sha256:
        raise EncoderError(f"{file}: the ranges were calibrated for other weights; {mend}")
    return found


def _range(entry: dict[str, Any]) -> LinearRange:
    shift, scale, mean = (np.array(entry[key], np.float32) for key in ("shift", "scale", "mean"))
    bound = float(entry["bound"])
    whole = shift.ndim == 1 and shift.shape == scale.shape == mean.shape
    if not whole or not np.isfinite([shift, scale, mean]).all() or not (scale > 0).all() or not 0 < bound < np.inf:
        raise ValueError("a range holds numbers that cannot be one")
    return LinearRange(shift, scale, mean, bound)

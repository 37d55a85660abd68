"""Cosine and sine tables of the rotary position embedding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moltbot_models.engine.architecture import Rope


def rotary_tables(rope: Rope, head_size: int, context_length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosine and sine, each of shape [context_length, head_size], halves repeated.

    Source: RoFormer (arXiv:2104.09864) section 3.2; the `llama3` scaling as in Llama 3.1's reference code;
    YaRN (arXiv:2309.00071) section 3.
    """
    frequencies = rope.theta ** -(np.arange(0, head_size, 2, dtype=np.float64) / head_size)
    if rope.kind == "linear":
        frequencies /= rope.factor
    elif rope.kind == "llama3":
        frequencies = _llama3(rope, frequencies)
    elif rope.kind == "yarn":
        frequencies = _yarn(rope, frequencies, head_size)
    # float32 before the product: the model was trained with these roundings.
    angles = np.outer(np.arange(context_length, dtype=np.float32), frequencies.astype(np.float32))
    angles = np.concatenate([angles, angles], axis=-1)
    scale = np.float32(rope.attention_factor)
    return np.cos(angles).astype(np.float32) * scale, np.sin(angles).astype(np.float32) * scale


def _yarn(rope: Rope, frequencies: NDArray[np.float64], head_size: int) -> NDArray[np.float64]:
    def dimension(rotations: float) -> float:
        """Where so many rotations fit into the original length."""
        turns = rope.original_context_length / (rotations * 2 * math.pi)
        return head_size * math.log(turns) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    ramp = (np.arange(head_size // 2) - low) / ((high - low) or 0.001)
    # Short waves stay, long ones are stretched by the factor, on the ramp between them both are blended.
    stretched = np.clip(ramp, 0.0, 1.0)
    return frequencies / rope.factor * stretched + frequencies * (1 - stretched)


def _llama3(rope: Rope, frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    wavelengths = 2 * math.pi / frequencies
    smooth = (rope.original_context_length / wavelengths - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    # Short waves stay, long ones are stretched by the factor, between them both are blended.
    smooth = np.clip(smooth, 0.0, 1.0)
    return (1 - smooth) * frequencies / rope.factor + smooth * frequencies

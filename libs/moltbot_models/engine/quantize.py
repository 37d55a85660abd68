"""Rounds matrices to 8 bits a number with a scale for each row, or to 4 with one for each group of columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def quantize_symmetric(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return values [out, in] and scales [out, 1]: `matrix ≈ values · scale`."""
    scale = np.maximum(np.abs(matrix).max(axis=1, keepdims=True), np.float32(1e-12)) / np.float32(127)
    return np.rint(matrix / scale).astype(np.int8), scale.astype(np.float32)


def quantize_asymmetric(
    matrix: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Return values [out, in], scales [out, 1] and zero points [out, 1]: `matrix ≈ (values - zero) · scale`."""
    return _asymmetric(matrix, 255)


def quantize_groups(
    matrix: NDArray[np.float32], group: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Return 4-bit values [out, groups, group], scales and zero points [out, groups, 1].

    Rounded to the nearest within each group's range: searching for the range of least squared error takes four times as
    long and wins 7 % of that error on the shipped model.

    Args:
        matrix: Shape [out, in].
        group: Columns that share a scale; divides `in`.
    """
    return _asymmetric(matrix.reshape(matrix.shape[0], -1, group), 15)


def pack_nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 4-bit numbers [..., n], n even, two in a byte [..., n/2], the first one in the low half."""
    return values[..., ::2] | (values[..., 1::2] << np.uint8(4))


def _asymmetric(
    values: NDArray[np.float32], most: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    # Zero must be representable, so the range of the last axis always contains it.
    low = np.minimum(values.min(axis=-1, keepdims=True), np.float32(0))
    high = np.maximum(values.max(axis=-1, keepdims=True), np.float32(0))
    scale = (np.maximum(high - low, np.float32(1e-12)) / np.float32(most)).astype(np.float32)
    zero = np.clip(np.rint(-low / scale), 0, most)
    rounded = np.clip(np.rint(values / scale) + zero, 0, most)
    return rounded.astype(np.uint8), scale, zero.astype(np.uint8)

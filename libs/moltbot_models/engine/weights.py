"""Turns stored tensors into constants of the graph, compressed on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino.op import Constant

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from openvino import Node

    from moltbot_models.engine.config import WeightPrecision
    from moltbot_models.engine.safetensors import StoredTensor


class Matrix:
    """A weight matrix [out, in] that may be read as a factor and row by row (a tied embedding)."""

    def __init__(self, stored: StoredTensor, precision: WeightPrecision) -> None:
        """Compress `stored`; 8-bit storage keeps one scale (and zero point for `u8`) a row."""
        self._scale: Constant | None = None
        self._zero: Constant | None = None
        if precision == "bf16":
            tensor = ov.Tensor(ov.Type.bf16, ov.Shape(list(stored.data.shape)))
            tensor.data.view(np.uint16)[:] = stored.to_bf16()
            self._values = Constant(tensor)
        elif precision == "f32":
            self._values = Constant(stored.to_f32())
        elif precision == "i8":
            values, scale = quantize_symmetric(stored.to_f32())
            self._values, self._scale = Constant(values), Constant(scale)
        else:
            values, scale, zero = quantize_asymmetric(stored.to_f32())
            self._values, self._scale, self._zero = Constant(values), Constant(scale), Constant(zero)

    def factor(self) -> Node:
        """Return the matrix as float32 [out, in]; the CPU plugin keeps it compressed."""
        return self._decompressed(self._values, self._zero, self._scale)

    def rows(self, indices: Node) -> Node:
        """Return the rows at `indices` [n] as float32 [n, in], decompressing those alone."""
        axis = ops.constant(np.int64(0))

        def pick(table: Constant | None) -> Node | None:
            return None if table is None else ops.gather(table, indices, axis)

        values = pick(self._values)
        if values is None:
            raise AssertionError
        return self._decompressed(values, pick(self._zero), pick(self._scale))

    @staticmethod
    def _decompressed(values: Node, zero: Node | None, scale: Node | None) -> Node:
        out: Node = values
        if values.get_element_type() != ov.Type.f32:
            out = ops.convert(values, ov.Type.f32)
        if zero is not None:
            out = ops.subtract(out, ops.convert(zero, ov.Type.f32))
        return out if scale is None else ops.multiply(out, scale)


def vector(stored: StoredTensor) -> Constant:
    """Return a bias or norm weight as float32 [1, n]; never compressed, it costs nothing."""
    return Constant(stored.to_f32().reshape(1, -1))


def quantize_symmetric(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return values [out, in] and scales [out, 1]: `matrix ≈ values · scale`."""
    scale = np.maximum(np.abs(matrix).max(axis=1, keepdims=True), np.float32(1e-12)) / np.float32(127)
    return np.rint(matrix / scale).astype(np.int8), scale.astype(np.float32)


def quantize_asymmetric(
    matrix: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Return values [out, in], scales [out, 1] and zero points [out, 1]: `matrix ≈ (values - zero) · scale`."""
    zero_f32: NDArray[Any] = np.float32(0) * matrix[:, :1]
    # Zero must be representable, so the range always contains it.
    low = np.minimum(matrix.min(axis=1, keepdims=True), zero_f32)
    high = np.maximum(matrix.max(axis=1, keepdims=True), zero_f32)
    scale = (np.maximum(high - low, np.float32(1e-12)) / np.float32(255)).astype(np.float32)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    values = np.clip(np.rint(matrix / scale) + zero, 0, 255)
    return values.astype(np.uint8), scale, zero.astype(np.uint8)

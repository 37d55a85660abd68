"""Turns stored tensors into constants of the graph, compressed on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino.op import Constant

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.quantize import (
    pack_nibbles,
    quantize_asymmetric,
    quantize_groups,
    quantize_symmetric,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openvino import Node

    from moltbot_models.engine.config import WeightPrecision
    from moltbot_models.engine.safetensors import StoredTensor

GROUPS = (64, 32, 16)
"""Columns that share a scale in `u4`: the largest that divides the row. Smaller ones cost 5 bytes more each."""
_SLAB_BYTES = 32 << 20
"""Of float32 at once: a matrix of gigabytes is compressed with little memory beside it."""


class Matrix:
    """A weight matrix [out, in] that may be read as a factor and, but for `u4`, row by row (a tied embedding)."""

    def __init__(self, stored: StoredTensor, precision: WeightPrecision) -> None:
        """Compress `stored`; 8-bit storage keeps one scale (and zero point for `u8`) a row, `u4` one a group.

        Raises:
            EngineError: `MODEL_UNSUPPORTED` for rows that no group of `u4` divides.
        """
        rows, columns = stored.data.shape
        self._shape = (rows, columns)
        self._scale: Constant | None = None
        self._zero: Constant | None = None
        if precision == "bf16":
            tensor = ov.Tensor(ov.Type.bf16, ov.Shape([rows, columns]))
            for part, slab in _slabs(stored):
                tensor.data.view(np.uint16)[part] = slab.to_bf16()
            self._values = Constant(tensor)
        elif precision == "f32":
            self._values = Constant(stored.to_f32())
        elif precision == "i8":
            values, scale = ov.Tensor(ov.Type.i8, ov.Shape([rows, columns])), np.empty((rows, 1), np.float32)
            for part, slab in _slabs(stored):
                values.data[part], scale[part] = quantize_symmetric(slab.to_f32())
            self._values, self._scale = Constant(values), Constant(scale)
        elif precision == "u8":
            values, scale = ov.Tensor(ov.Type.u8, ov.Shape([rows, columns])), np.empty((rows, 1), np.float32)
            zero = np.empty((rows, 1), np.uint8)
            for part, slab in _slabs(stored):
                values.data[part], scale[part], zero[part] = quantize_asymmetric(slab.to_f32())
            self._values, self._scale, self._zero = Constant(values), Constant(scale), Constant(zero)
        else:
            self._values, self._scale, self._zero = _grouped(stored)

    def factor(self) -> Node:
        """Return the matrix as float32 [out, in]; the CPU plugin keeps it compressed."""
        whole = self._decompressed(self._values, self._zero, self._scale)
        if len(self._values.shape) == len(self._shape):
            return whole
        return ops.reshape(whole, ops.constant(np.array(self._shape)), special_zero=False)

    def rows(self, indices: Node) -> Node:
        """Return the rows at `indices` [n] as float32 [n, in], decompressing those alone; not of `u4`."""
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


def _grouped(stored: StoredTensor) -> tuple[Constant, Constant, Constant]:
    rows, columns = stored.data.shape
    group = next((size for size in GROUPS if columns % size == 0), None)
    if group is None:
        raise EngineError(
            "MODEL_UNSUPPORTED",
            f"{stored.name} has rows of {columns}, which no group of u4 divides ({', '.join(map(str, GROUPS))}); "
            'take weights="u8"',
        )
    # A tensor over numpy's memory would not own its 4-bit numbers: it is allocated, then filled.
    values = ov.Tensor(ov.Type.u4, ov.Shape([rows, columns // group, group]))
    packed = values.data.reshape(rows, columns // 2)
    scale = np.empty((rows, columns // group, 1), np.float32)
    # In 8 bits, though 4 would hold them: the plugin reads those quicker.
    zero = np.empty((rows, columns // group, 1), np.uint8)
    for part, slab in _slabs(stored):
        numbers, scale[part], zero[part] = quantize_groups(slab.to_f32(), group)
        packed[part] = pack_nibbles(numbers.reshape(-1, columns))
    return Constant(values), Constant(scale), Constant(zero)


def _slabs(stored: StoredTensor) -> Iterator[tuple[slice, StoredTensor]]:
    rows, columns = stored.data.shape
    step = max(1, _SLAB_BYTES // (4 * columns))
    for begin in range(0, rows, step):
        part = slice(begin, min(begin + step, rows))
        yield part, stored.rows(part)


def vector(stored: StoredTensor) -> Constant:
    """Return a bias or norm weight as float32 [1, n]; never compressed, it costs nothing."""
    return Constant(stored.to_f32().reshape(1, -1))

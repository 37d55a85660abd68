"""Writes a safetensors file tensor by tensor, so that a model never stands in memory whole."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def write_tensors(
    file: Path, layout: Mapping[str, tuple[str, tuple[int, ...]]], tensors: Iterable[tuple[str, NDArray[Any]]]
) -> int:
    """Write `layout` as the header and `tensors` behind it.

    Args:
        file: Replaced if it exists.
        layout: Kind (`F32`, `F16`, `BF16`) and shape by name.
        tensors: Every tensor of the layout, in its order; BF16 as uint16 bit patterns.

    Returns:
        Bytes written.

    Source: https://github.com/huggingface/safetensors#format
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (kind, shape) in layout.items():
        end = offset + _BYTES[kind] * int(np.prod(shape))
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        for (name, data), (expected, (kind, shape)) in zip(tensors, layout.items(), strict=True):
            if name != expected or data.shape != shape or data.itemsize != _BYTES[kind]:
                raise AssertionError(name)
            stream.write(np.ascontiguousarray(data).data)
    return 8 + len(encoded) + offset

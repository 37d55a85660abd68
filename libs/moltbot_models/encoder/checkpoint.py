"""The tensors of an encoder's model.safetensors; what is stored beside them (`position_ids`) is passed over."""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import weakref
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from moltbot_models.encoder.config import EncoderError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Rows = Callable[[NDArray[np.int64]], NDArray[np.float32]]


class EncoderCheckpoint:
    """Maps one safetensors file and hands out float32 tensors by name.

    Source: https://github.com/huggingface/safetensors#format
    """

    def __init__(self, file: Path) -> None:
        """Map the file.

        Raises:
            EncoderError: The file is missing or damaged.
        """
        self._file = file
        try:
            self._descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._descriptor)
            # Nobody writes into it; OpenVINO takes no read-only memory.
            self._mapped = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_COPY)
            (length,) = struct.unpack_from("<Q", self._mapped)
            self._header = cast("dict[str, dict[str, Any]]", json.loads(self._mapped[8 : 8 + length]))
        except (OSError, ValueError, struct.error) as error:
            raise EncoderError(f"{file}: not a readable safetensors file; copy it again") from error
        self._begin = 8 + length

    def rest(self) -> None:
        """Give the memory of what was read back; who holds a view and reads it again gets it from the file again."""
        self._mapped.madvise(mmap.MADV_DONTNEED)

    def tensor(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Return a copy of a tensor of the expected shape; errors are those of `stored`."""
        return widened(self.stored(name, *shape))

    def matrix(self, name: str, *shape: int) -> NDArray[np.float32]:
        """As `tensor`, but a view into the file where the numbers are stored as F32."""
        stored = self.stored(name, *shape)
        return stored if stored.dtype == np.float32 else widened(stored)

    def rows(self, name: str, *shape: int) -> Rows:
        """Return a function from numbers of rows, i64 [...], to rows of a matrix, f32 [..., columns].

        They are read when they are asked for, each once a call, and nothing of them is kept: a mapped table would be in
        memory as a whole after a few hundred texts. Errors are those of `stored`, an `IndexError` for a row that is not
        there.
        """
        kind = self.stored(name, *shape).dtype
        begin, size = self._begin_of(name), shape[1] * kind.itemsize

        def read(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
            different, places = np.unique(numbers, return_inverse=True)
            if different.size and not 0 <= different[0] <= different[-1] < shape[0]:
                raise IndexError(f"{name} has {shape[0]} rows, asked for are {different[0]} to {different[-1]}")
            found = bytearray(different.size * size)
            lines = memoryview(found)
            for place, number in enumerate(different.tolist()):
                line = lines[place * size : (place + 1) * size]
                if os.preadv(self._descriptor, [line], begin + number * size) != size:
                    raise EncoderError(f"{self._file}: it was cut short while in use; copy it again")
            values = widened(np.frombuffer(found, kind).reshape(-1, shape[1]))
            return values[places].reshape(*numbers.shape, shape[1])

        return read

    def stored(self, name: str, *shape: int) -> NDArray[Any]:
        """Return a view into the file of a tensor of the expected shape; `widened` makes numbers of it.

        Raises:
            EncoderError: It is missing, has another shape or is not stored as F32, F16 or BF16.
        """
        entry = self._entry(name)
        kinds: dict[object, type[np.generic]] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
        kind = kinds.get(entry.get("dtype"))
        if kind is None:
            raise EncoderError(
                f"{self._file}: {name} is stored as {entry.get('dtype')}; the encoder reads F32, F16 and BF16"
            )
        if tuple(entry.get("shape", ())) != shape:
            raise EncoderError(f"{self._file}: {name} has shape {entry.get('shape')}, config.json implies {shape}")
        try:
            flat = np.frombuffer(self._mapped, kind, math.prod(shape), self._begin_of(name))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise EncoderError(f"{self._file}: {name} lies outside the file; copy it again") from error
        return flat.reshape(shape)

    def _begin_of(self, name: str) -> int:
        return self._begin + int(self._entry(name)["data_offsets"][0])

    def _entry(self, name: str) -> dict[str, Any]:
        # Checkpoints saved with a head carry the base model under a prefix.
        found = (self._header.get(f"{prefix}{name}") for prefix in ("", "bert.", "roberta."))
        entry = next((entry for entry in found if entry is not None), None)
        if entry is None:
            raise EncoderError(f"{self._file}: there is no tensor {name}")
        return entry


def widened(values: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers of what `EncoderCheckpoint.stored` gives: BF16 is read as the upper half of the bits of an F32."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)

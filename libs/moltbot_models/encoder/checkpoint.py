"""The tensors of an encoder's model.safetensors; what is stored beside them (`position_ids`) is passed over."""

from __future__ import annotations

import json
import math
import mmap
import struct
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from moltbot_models.encoder.config import EncoderError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


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
            with file.open("rb") as stream:
                self._mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            (length,) = struct.unpack_from("<Q", self._mapped)
            self._header = cast("dict[str, dict[str, Any]]", json.loads(self._mapped[8 : 8 + length]))
        except (OSError, ValueError, struct.error) as error:
            raise EncoderError(f"{file}: not a readable safetensors file; copy it again") from error
        self._begin = 8 + length

    def rest(self) -> None:
        """Give the memory of what was read back; what is read from now on is a row here and there."""
        self._mapped.madvise(mmap.MADV_DONTNEED)
        self._mapped.madvise(mmap.MADV_RANDOM)

    def tensor(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Return a copy of a tensor of the expected shape; errors are those of `stored`."""
        return widened(self.stored(name, *shape))

    def stored(self, name: str, *shape: int) -> NDArray[Any]:
        """Return a view into the file of a tensor of the expected shape; `widened` makes numbers of it.

        Raises:
            EncoderError: It is missing, has another shape or is not stored as F32, F16 or BF16.
        """
        # Checkpoints saved with a head carry the base model under a prefix.
        found = (self._header.get(f"{prefix}{name}") for prefix in ("", "bert.", "roberta."))
        entry = next((entry for entry in found if entry is not None), None)
        if entry is None:
            raise EncoderError(f"{self._file}: there is no tensor {name}")
        kinds: dict[object, type[np.generic]] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
        kind = kinds.get(entry.get("dtype"))
        if kind is None:
            raise EncoderError(
                f"{self._file}: {name} is stored as {entry.get('dtype')}; the encoder reads F32, F16 and BF16"
            )
        if tuple(entry.get("shape", ())) != shape:
            raise EncoderError(f"{self._file}: {name} has shape {entry.get('shape')}, config.json implies {shape}")
        try:
            flat = np.frombuffer(self._mapped, kind, math.prod(shape), self._begin + int(entry["data_offsets"][0]))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise EncoderError(f"{self._file}: {name} lies outside the file; copy it again") from error
        return flat.reshape(shape)


def widened(values: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers of what `EncoderCheckpoint.stored` gives: BF16 is read as the upper half of the bits of an F32."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)

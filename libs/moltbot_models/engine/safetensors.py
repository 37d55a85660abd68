"""Reads safetensors files by memory mapping, sharded or not, without the safetensors package."""

from __future__ import annotations

import json
import math
import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from moltbot_models.engine.config import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_HEADER_LIMIT_BYTES = 100_000_000
_PREFIXES = {
    "language_model.lm_head.": "lm_head.",
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.vision_tower.vision_model.": "vision_tower.",
    "model.vision_tower.": "vision_tower.",
    "vision_tower.vision_model.": "vision_tower.",
}
"""Vision-language checkpoints were saved under two schemes of names; the first that fits holds."""
_STORAGE: dict[str, type[np.generic]] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the file holds it: a read-only view of the mapping."""

    name: str
    kind: str
    """`F32`, `F16` or `BF16`."""
    data: NDArray[Any]
    """BF16 is held as uint16, because numpy has no such type."""

    def rows(self, part: slice) -> StoredTensor:
        """Return some of the rows, a view too."""
        return StoredTensor(self.name, self.kind, self.data[part])

    def to_f32(self) -> NDArray[np.float32]:
        """Return the values as float32; exact for every kind."""
        if self.kind == "BF16":
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        return self.data.astype(np.float32)

    def to_bf16(self) -> NDArray[np.uint16]:
        """Return the values as bfloat16 bit patterns, rounded to nearest, ties to even."""
        if self.kind == "BF16":
            return self.data
        bits = self.to_f32().view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def stacked(tensors: Sequence[StoredTensor]) -> StoredTensor:
    """Return tensors one below the other as one; a single one stays a view of the file."""
    if len(tensors) == 1:
        return tensors[0]
    name, kinds = " and ".join(tensor.name for tensor in tensors), {tensor.kind for tensor in tensors}
    if len(kinds) == 1:
        return StoredTensor(name, kinds.pop(), np.concatenate([tensor.data for tensor in tensors]))
    return StoredTensor(name, "F32", np.concatenate([tensor.to_f32() for tensor in tensors]))


class Checkpoint:
    """The tensors of a model directory, mapped and read on demand.

    Source: https://github.com/huggingface/safetensors#format
    """

    def __init__(self, directory: Path) -> None:
        """Map `model.safetensors`, or the shards that `model.safetensors.index.json` names.

        Raises:
            EngineError: `MODEL_INVALID` if files are missing or malformed.
        """
        self._tensors: dict[str, StoredTensor] = {}
        for file in _files(directory):
            self._tensors.update({_plain(name): tensor for name, tensor in _map(file).items()})

    @property
    def parameters(self) -> int:
        """How many numbers the checkpoint holds."""
        return sum(tensor.data.size for tensor in self._tensors.values())

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """Return a tensor of the expected shape.

        Raises:
            EngineError: `MODEL_INVALID` if it is missing or has another shape.
        """
        found = self._tensors.get(name)
        if found is None:
            raise EngineError("MODEL_INVALID", f"the checkpoint has no tensor {name}")
        if found.data.shape != shape:
            raise EngineError("MODEL_INVALID", f"{name} has shape {found.data.shape}, config.json implies {shape}")
        return found


def _plain(name: str) -> str:
    """The name that a tensor has in a text model, or within one part of a vision-language model."""
    for prefix, plain in _PREFIXES.items():
        if name.startswith(prefix):
            return plain + name.removeprefix(prefix)
    return name


def _files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        single = directory / "model.safetensors"
        if not single.exists():
            raise EngineError(
                "MODEL_INVALID", f"{directory} holds neither model.safetensors nor model.safetensors.index.json"
            )
        return [single]
    try:
        names = sorted(set(cast("dict[str, str]", json.loads(index.read_text("utf-8"))["weight_map"]).values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError("MODEL_INVALID", f"{index} has no readable weight_map: {error}") from error
    for name in names:
        if name != name.replace("\\", "/").rsplit("/", 1)[-1] or not (directory / name).is_file():
            raise EngineError("MODEL_INVALID", f"{index} names the shard {name!r}, which is not a file beside it")
    return [directory / name for name in names]


def _map(file: Path) -> dict[str, StoredTensor]:
    size = file.stat().st_size
    if size < 8:
        raise _damaged(file, "shorter than its length field")
    with file.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    (length,) = struct.unpack_from("<Q", mapped)
    if length > min(size - 8, _HEADER_LIMIT_BYTES):
        raise _damaged(file, f"header of {length} bytes")
    try:
        header = cast("dict[str, dict[str, Any]]", json.loads(mapped[8 : 8 + length]))
    except ValueError as error:
        raise _damaged(file, "header is not JSON") from error
    data = memoryview(mapped)[8 + length :]
    return {name: _stored(file, name, entry, data) for name, entry in header.items() if name != "__metadata__"}


def _stored(file: Path, name: str, entry: dict[str, Any], data: memoryview) -> StoredTensor:
    try:
        kind, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, f"entry of {name} is malformed") from error
    storage = _STORAGE.get(kind)
    if storage is None:
        raise EngineError(
            "MODEL_UNSUPPORTED", f"{file}: {name} is stored as {kind}; the engine reads BF16, F16 and F32"
        )
    if min(shape, default=1) < 0 or not 0 <= begin <= end <= len(data):
        raise _damaged(file, f"{name} lies outside the file")
    if end - begin != math.prod(shape) * np.dtype(storage).itemsize:
        raise _damaged(file, f"{name} has {end - begin} bytes for shape {shape}")
    return StoredTensor(name, kind, np.frombuffer(data[begin:end], storage).reshape(shape))


def _damaged(file: Path, what: str) -> EngineError:
    return EngineError("MODEL_INVALID", f"{file}: {what}; the file is damaged or not safetensors, copy it again")

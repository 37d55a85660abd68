"""Reads a GGUF file: metadata with limits, tensors mapped and dequantised one by one.

The header is read here and not by the gguf package, whose reader trusts every length in the file: a few bytes that
claim 2**60 numbers keep it busy for ever. The package knows the quantised blocks, which is the part that changes.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from moltbot_mesh.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_VERSIONS = (2, 3)
_ENTRIES_LIMIT = 4096
_TENSORS_LIMIT = 65_536
_DIMENSIONS_LIMIT = 4
_STRING_LIMIT_BYTES = 4 << 20
_ARRAY_LIMIT = 2_000_000
_ARRAYS_LIMIT = 6_000_000
"""Elements of all arrays together; a vocabulary of 256k tokens with its merges, scores and kinds has 1.5 million."""
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor as the file holds it."""

    name: str
    kind: str
    """Of ggml: `F32`, `F16`, `BF16`, `Q8_0`, …"""
    shape: tuple[int, ...]
    """In numpy's order: [out, in] of a matrix."""
    data: NDArray[np.uint8]
    """The bytes, a read-only view of the mapping."""

    def to_f32(self) -> NDArray[np.float32]:
        """Return the numbers.

        Raises:
            InvalidArgument: There is no reader for this kind of quantisation.
        """
        gguf = gguf_package()
        rows = self.data.reshape(*self.shape[:-1], -1)
        try:
            values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[self.kind])
        except NotImplementedError:
            raise InvalidArgument(f"{self.name} is quantised as {self.kind}, which is not built") from None
        return values.reshape(self.shape).astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Header and tensors of one file."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def gguf_package() -> Any:
    """Return the gguf module.

    Raises:
        FailedPrecondition: It is not installed.
    """
    try:
        import gguf  # noqa: PLC0415 - wanted for an import alone, never for serving
    except ImportError as error:
        raise FailedPrecondition("GGUF files need the package gguf: pip install 'gguf>=0.19,<0.20'") from error
    return gguf


def read_gguf(file: Path) -> GgufFile:
    """Map a file and read its header.

    Raises:
        InvalidArgument: The file is no GGUF, damaged, or beyond a limit; the message says which.
        FailedPrecondition: The file cannot be opened, or the gguf package is missing.
    """
    gguf = gguf_package()
    try:
        with file.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise InvalidArgument(f"{file} is empty; copy it again") from None
    except OSError as error:
        raise FailedPrecondition(f"{file} cannot be read: {error.strerror}") from None
    try:
        return _Header(mapped, gguf).read()
    except InvalidArgument as error:
        raise InvalidArgument(f"{file}: {error}") from None
    except (struct.error, UnicodeDecodeError, OverflowError):
        raise InvalidArgument(f"{file}: the header ends early or is damaged; copy the file again") from None


class _Header:
    def __init__(self, mapped: mmap.mmap, gguf: Any) -> None:
        self._mapped, self._gguf = mapped, gguf
        self._at = 0
        self._elements = 0

    def read(self) -> GgufFile:
        if self._mapped[:4] != b"GGUF":
            raise InvalidArgument("not a GGUF file (it does not begin with GGUF)")
        self._at = 4
        version = self._number("I")
        if version not in _VERSIONS:
            raise InvalidArgument(
                f"GGUF version {version}; read are {', '.join(map(str, _VERSIONS))}, little-endian: convert it again"
            )
        tensor_count, entry_count = self._number("Q"), self._number("Q")
        if tensor_count > _TENSORS_LIMIT or entry_count > _ENTRIES_LIMIT:
            raise InvalidArgument(
                f"{tensor_count} tensors, {entry_count} entries; at most {_TENSORS_LIMIT} and {_ENTRIES_LIMIT} are read"
            )
        metadata: dict[str, Any] = {}
        for _ in range(entry_count):
            key = self._string()
            if key in metadata:
                raise InvalidArgument(f"the entry {key} stands twice; convert the file again")
            metadata[key] = self._value(self._number("I"))
        infos = [self._tensor_info() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise InvalidArgument(f"general.alignment is {alignment!r}; it must be a power of two")
        begin = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in infos:
            if name in tensors:
                raise InvalidArgument(f"the tensor {name} stands twice; convert the file again")
            tensors[name] = self._tensor(name, shape, kind, begin + offset)
        return GgufFile(metadata, tensors)

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._string(), self._number("I")
        if not 1 <= dimensions <= _DIMENSIONS_LIMIT:
            raise InvalidArgument(f"{name} has {dimensions} dimensions; 1 to {_DIMENSIONS_LIMIT} are read")
        # ggml names the fastest dimension first.
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        return name, shape, self._number("I"), self._number("Q")

    def _tensor(self, name: str, shape: tuple[int, ...], number: int, begin: int) -> GgufTensor:
        try:
            kind = self._gguf.GGMLQuantizationType(number)
        except ValueError:
            raise InvalidArgument(
                f"{name} is of an unknown kind ({number}); a newer gguf package may know it"
            ) from None
        block, block_bytes = self._gguf.GGML_QUANT_SIZES[kind]
        if min(shape) < 1 or shape[-1] % block:
            raise InvalidArgument(f"{name} has shape {shape}, which {kind.name} cannot hold (blocks of {block})")
        size = prod(shape) // block * block_bytes
        if begin + size > len(self._mapped):
            raise InvalidArgument(f"{name} lies beyond the end of the file, which is incomplete: copy it again")
        data = np.frombuffer(self._mapped, np.uint8, size, begin)
        return GgufTensor(name, kind.name, shape, data)

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(f"<{form}", self._mapped, self._at)
        self._at += struct.calcsize(f"<{form}")
        return value

    def _string(self) -> str:
        length = self._number("Q")
        if length > _STRING_LIMIT_BYTES:
            raise InvalidArgument(f"a text of {length} bytes in the header; at most {_STRING_LIMIT_BYTES} are read")
        data = self._mapped[self._at : self._at + length]
        if len(data) != length:
            raise InvalidArgument("the header ends within a text; copy the file again")
        self._at += length
        return data.decode()

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise InvalidArgument(f"an entry of unknown kind {kind}; convert the file with a released converter")
        element, length = self._number("I"), self._number("Q")
        self._elements += length
        if length > _ARRAY_LIMIT or self._elements > _ARRAYS_LIMIT:
            raise InvalidArgument(f"a list of {length} elements in the header; at most {_ARRAY_LIMIT} are read")
        if element == _STRING:
            return [self._string() for _ in range(length)]
        if element not in _SCALARS:
            raise InvalidArgument("a list of lists in the header, which no model needs")
        form = f"<{length}{_SCALARS[element]}"
        values = list(struct.unpack_from(form, self._mapped, self._at))
        self._at += struct.calcsize(form)
        return values

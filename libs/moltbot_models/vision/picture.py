"""An image as a text model takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A decoded image."""

    digest: bytes
    """SHA-256 of the encoded file."""
    pixels: NDArray[np.float32]
    """[3, edge, edge]."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """The rows that stand in the place of an image's tokens."""

    digest: bytes
    """SHA-256 of the encoded file: the prefix cache tells images apart by it."""
    rows: NDArray[np.float32]
    """[tokens, text hidden]."""

"""The texts that models are calibrated with and judged on."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LEAST_TEXTS = 36


@dataclass(frozen=True, slots=True)
class GateTexts:
    """Two sets of texts that share none."""

    calibration: tuple[str, ...]
    held_out: tuple[str, ...]

    @classmethod
    def split(cls, lines: Sequence[str]) -> GateTexts:
        """Hold every third text out."""
        return cls(tuple(line for n, line in enumerate(lines) if n % 3), tuple(lines[::3]))


def shipped_texts() -> GateTexts:
    """The texts that come with the project, written for it."""
    file = resources.files("moltbot_models.gate").joinpath("texts.txt")
    return GateTexts.split(file.read_text("utf-8").splitlines())


def read_texts(file: Path) -> GateTexts:
    """Texts of the user's own, one a line.

    Raises:
        InvalidArgument: The file cannot be read, or holds too few.
    """
    try:
        lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{file}: cannot be read as UTF-8 text: {type(error).__name__}") from None
    if len(lines) < _LEAST_TEXTS:
        raise InvalidArgument(f"{file}: {len(lines)} texts; give at least {_LEAST_TEXTS}, one a line")
    return GateTexts.split(lines)

"""What of a model's output a text is."""

from __future__ import annotations

from enum import Enum


class OutputKind(Enum):
    """Kinds of output. The numbers stand in the registry and on the wire: they never change."""

    ANSWER = 1
    REASONING = 2
    """What the model thinks before it answers."""

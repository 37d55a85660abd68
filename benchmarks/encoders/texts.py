"""Real English paragraphs that every machine with Python has: the topics of its own help."""

from __future__ import annotations

import random
import re
from pydoc_data.topics import topics

_FEWEST, _MOST = 20, 900


def paragraphs() -> list[str]:
    """About a thousand of 5 to 150 words, in an order that is always the same."""
    found: set[str] = set()
    for text in topics.values():
        for part in re.split(r"\n\s*\n", text):
            line = " ".join(part.split())
            if _FEWEST < len(line) < _MOST and line[0].isalpha() and line.endswith((".", ":")):
                found.add(line)
    ordered = sorted(found)
    random.Random(0).shuffle(ordered)
    return ordered

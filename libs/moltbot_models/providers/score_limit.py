"""How many scores one answer may hold: texts times classes is checked before anything is computed."""

from __future__ import annotations

from moltbot_mesh.errors import InvalidArgument

MOST_SCORES = 65_536
"""Of one answer: 2,048 texts of 32 classes, about a megabyte and a half of JSON."""


def check_scores(model: str, texts: int, classes: int) -> None:
    """Refuse a request whose answer would be too long.

    Raises:
        InvalidArgument: `ANSWER_TOO_LARGE`, with the numbers and how many texts fit.
    """
    if texts * classes > MOST_SCORES:
        raise InvalidArgument(
            f"{model}: {texts:,} texts of {classes:,} classes are {texts * classes:,} scores, an answer holds at most "
            f"{MOST_SCORES:,}; send at most {MOST_SCORES // classes:,} texts in one request",
            reason="ANSWER_TOO_LARGE",
        )

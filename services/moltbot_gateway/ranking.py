"""What scores say: the best documents, the likeliest class."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moltbot_models.generation import Scores


def best(scores: Scores, top_n: int = 0) -> list[tuple[int, float]]:
    """Places of documents with their scores, the best first; of equals the first.

    Args:
        scores: Of a query.
        top_n: How many; 0 means all.
    """
    ranked = sorted(((index, row[0]) for index, row in enumerate(scores.values)), key=lambda one: -one[1])
    return ranked[:top_n] if top_n else ranked


def likeliest(scores: Scores, row: tuple[float, ...]) -> str:
    """The name of the class with the greatest score."""
    return scores.labels[row.index(max(row))]

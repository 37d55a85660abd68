"""Pages of lists that stand in memory.

Source: AIP-158 (pagination).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
DEFAULT_PAGE_SIZE = 100


def page_of(items: Sequence[T], page_size: int, page_token: str) -> tuple[Sequence[T], str]:
    """One page of a list.

    Args:
        items: The whole list, in its order.
        page_size: Most items; 0 means 100.
        page_token: From the page before; empty for the first.

    Returns:
        The items, and the token of the next page, empty at the end.

    Raises:
        InvalidArgument: The token is not one of ours.
    """
    size = page_size or DEFAULT_PAGE_SIZE
    start = offset_of(page_token)
    end = start + size
    return items[start:end], str(end) if end < len(items) else ""


def offset_of(page_token: str) -> int:
    """The offset that a token stands for.

    Raises:
        InvalidArgument: The token is not one of ours.
    """
    if not page_token:
        return 0
    if not page_token.isascii() or not page_token.isdigit() or len(page_token) > 18:
        raise InvalidArgument("page_token: not a token of this list; leave it empty to begin again")
    return int(page_token)

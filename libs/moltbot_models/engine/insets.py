"""Rows that stand in a sequence in the place of its tokens' own embeddings: the patches of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Inset:
    """The rows of one image within a sequence."""

    begin: int
    """The first token that they replace."""
    digest: bytes
    """Of the image; all digests are of one length."""
    rows: NDArray[np.float32]
    """[tokens, hidden]."""

    @property
    def end(self) -> int:
        """The token behind the last."""
        return self.begin + len(self.rows)


def content_between(insets: Sequence[Inset], begin: int, end: int) -> bytes:
    """Return what tells the tokens `begin:end` from equal ones with other images; nothing where no image is."""
    if not insets:
        return b""
    return b"".join(
        inset.digest + inset.begin.to_bytes(8, "little") for inset in insets if inset.begin < end and begin < inset.end
    )


def rows_between(insets: Sequence[Inset], begin: int, end: int) -> list[tuple[int, NDArray[np.float32]]]:
    """Return the rows that fall on the tokens `begin:end`, each with its first place counted from `begin`."""
    found: list[tuple[int, NDArray[np.float32]]] = []
    for inset in insets:
        first, last = max(begin, inset.begin), min(end, inset.end)
        if first < last:
            found.append((first - begin, inset.rows[first - inset.begin : last - inset.begin]))
    return found

"""Bringing tree and index to where the segments are, when a log is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moltbot_audit import merkle
from moltbot_audit.checkpoint import parse
from moltbot_audit.records import Record, Row, row
from moltbot_audit.segment import Damage, read, segments
from moltbot_mesh.errors import DataLoss

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moltbot_audit.index import Index
    from moltbot_audit.tiles import Tree

_BATCH = 4096


class CatchUp:
    """Reads the records that tree or index do not have.

    Args:
        directory: Of the segments.
        size: Records in them.
        tree: Of their hashes.
        index: Of their keys.
        decode: Reads a payload's keys.
    """

    def __init__(self, directory: Path, size: int, tree: Tree, index: Index, decode: Callable[[bytes], Record]) -> None:
        self._directory = directory
        self._size = size
        self._tree, self._index = tree, index
        self._decode = decode

    def run(self, note: str, covered: int, horizon: int) -> None:
        """Bring both to where the segments are.

        Args:
            note: The newest checkpoint; empty if there is none.
            covered: Its size.
            horizon: The first record that has not expired.

        Raises:
            DataLoss: Records are damaged or missing, or the checkpoint is not theirs.
        """
        oldest = segments(self._directory)[0][0]
        if oldest > horizon:
            raise DataLoss(f"{self._directory}: records 0 to {oldest - 1} are missing and have not expired")
        self._index.clear_from(self._size)
        self._index.clear_below(oldest)  # an end within expiry may have left some
        try:
            self._tree.restore(covered)
            if note and self._tree.root() != parse(note).root:
                self._tree.restore(oldest)
        except DataLoss:  # tiles are not synced: a power failure may cost some, the records have them all
            self._tree.restore(oldest)
        self._read_from(min(self._tree.size, self._index.next_sequence()))
        self._tree.publish()
        if note and self._tree.root(covered) != parse(note).root:
            raise DataLoss("the audit log does not match its signed checkpoint; `moltbot audit verify` tells more")

    def _read_from(self, start: int) -> None:
        hashed, indexed = self._tree.size, self._index.next_sequence()
        rows: list[Row] = []
        found = segments(self._directory)
        ends = [*(first for first, _ in found[1:]), self._size]
        for (first, path), following in zip(found, ends, strict=True):
            expected = first
            if following <= start:
                continue
            for item in read(path, first):
                if isinstance(item, Damage):
                    raise DataLoss(f"the audit log is damaged: {item}; `moltbot audit verify` tells more")
                expected = item.number + 1
                if item.number >= hashed:
                    self._tree.append(merkle.leaf_hash(item.payload))
                if item.number >= indexed:
                    rows.append(row((item.number, first, item.offset), self._decode(item.payload)))
                    if len(rows) >= _BATCH:
                        self._index.add(rows)
                        rows = []
            self._tree.flush()
            if expected != following:
                raise DataLoss(f"{path.name}: ends at record {expected}, but {following} follows")
        self._index.add(rows)

"""The Merkle tree over the records: hashing, proofs and their verification.

Nodes are kept as tiles of 256 hashes on disk; the newest, incomplete tile of each level is in memory.

Source: RFC 6962 section 2.1, RFC 9162 section 2.1; C2SP tlog-tiles (https://c2sp.org/tlog-tiles).
"""

from __future__ import annotations

import os
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_mesh.errors import DataLoss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HASH_BYTES = 32
TILE_HASHES = 256
_TILE_HEIGHT = 8
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(record: bytes) -> bytes:
    """SHA-256(0x00 || record)."""
    return sha256(b"\x00" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The root of a complete subtree."""
    level = list(hashes)
    while len(level) > 1:
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)



def root_of(size: int, node: Callable[[int, int], bytes]) -> bytes:
    """The root of the first `size` leaves.

    Args:
        size: How many leaves.
        node: Gives the hash of the complete subtree of 2**level leaves at an index of that level.
    """
    return EMPTY_ROOT if size == 0 else _subtree(0, size, node)


def _subtree(start: int, size: int, node: Callable[[int, int], bytes]) -> bytes:
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return node(level, start >> level)
    left = _split(size)
    return node_hash(_subtree(start, left, node), _subtree(start + left, size - left, node))


def inclusion_proof(index: int, size: int, node: Callable[[int, int], bytes]) -> list[bytes]:
    """The audit path of a leaf (RFC 9162 section 2.1.3.1), leaf side first."""

    def path(at: int, start: int, length: int) -> list[bytes]:
        if length == 1:
            return []
        left = _split(length)
        if at < left:
            return [*path(at, start, left), _subtree(start + left, length - left, node)]
        return [*path(at - left, start + left, length - left), _subtree(start, left, node)]

    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    return path(index, 0, size)


def consistency_proof(first: int, second: int, node: Callable[[int, int], bytes]) -> list[bytes]:
    """That the first `first` leaves of a tree of `second` are the earlier tree (RFC 9162 section 2.1.4.1)."""

    def path(m: int, start: int, length: int, *, complete: bool) -> list[bytes]:
        if m == length:
            return [] if complete else [_subtree(start, length, node)]
        left = _split(length)
        if m <= left:
            return [*path(m, start, left, complete=complete), _subtree(start + left, length - left, node)]
        return [*path(m - left, start + left, length - left, complete=False), _subtree(start, left, node)]

    if not 0 <= first <= second:
        raise ValueError(f"no tree of {second} leaves extends one of {first}")
    return [] if first in (0, second) else path(first, 0, second, complete=True)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Check an audit path (RFC 9162 section 2.1.3.2).

    Args:
        leaf: The leaf's hash.
        index: Its place.
        size: Of the tree.
        proof: The path.
        root: The tree's.
    """
    if not 0 <= index < size:
        return False
    fn, sn, found = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            found = node_hash(sibling, found)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            found = node_hash(found, sibling)
        fn >>= 1
        sn >>= 1
    return sn == 0 and found == root


def verify_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Check a consistency proof (RFC 9162 section 2.1.4.2)."""
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof
    if not 0 < first < second or not proof:
        return False
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    fr = sr = path[0]
    for sibling in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr = node_hash(sibling, fr)
            sr = node_hash(sibling, sr)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            sr = node_hash(sr, sibling)
        fn >>= 1
        sn >>= 1
    return sn == 0 and fr == first_root and sr == second_root


def tile_path(level: int, number: int, width: int = TILE_HASHES) -> str:
    """The path of a tile: `tile/0/x001/x234/067` or, with fewer hashes, `….p/17`."""
    parts = [f"{number % 1000:03d}"]
    while number >= 1000:
        number //= 1000
        parts.append(f"x{number % 1000:03d}")
    path = f"tile/{level}/" + "/".join(reversed(parts))
    return path if width == TILE_HASHES else f"{path}.p/{width}"


class Tree:
    """A tree that grows, its tiles on disk.

    Args:
        directory: Below which `tile/` stands.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._partial: list[list[bytes]] = [[]]  # by tile level: the hashes of its incomplete tile
        self._full: list[int] = [0]  # by tile level: complete tiles
        self._unsynced: list[Path] = []
        self._partial_files: list[Path] = []
        self._tile = lru_cache(maxsize=1024)(self._read_tile)
        self.size = 0

    def restore(self, size: int) -> int:
        """Take the complete tiles of at most `size` leaves from disk.

        Returns:
            How many leaves they hold; the leaves from there on must be appended.
        """
        tiles = size // TILE_HASHES
        # Only tiles before the checkpoint are trusted: they were synced with it.
        while tiles and not (self._directory / tile_path(0, tiles - 1)).is_file():
            tiles -= 1
        self.size = 0
        self._partial, self._full = [[]], [0]
        hashes = [_fold(self._tile(0, number)) for number in range(tiles)] if tiles < 4096 else None
        if hashes is None:
            hashes = [h for n in range(tiles // TILE_HASHES) for h in self._tile(1, n)]
            hashes += [_fold(self._tile(0, n)) for n in range(len(hashes), tiles)]
        self._full[0] = tiles
        self.size = tiles * TILE_HASHES
        for found in hashes:
            self._push(1, found, write=False)
        return self.size

    def append(self, leaf: bytes) -> None:
        """Add a leaf's hash."""
        self._push(0, leaf, write=True)
        self.size += 1

    def _push(self, level: int, found: bytes, *, write: bool) -> None:
        if level == len(self._partial):
            self._partial.append([])
            self._full.append(0)
        hashes = self._partial[level]
        hashes.append(found)
        if len(hashes) == TILE_HASHES:
            if write or level > 0:
                path = self._directory / tile_path(level, self._full[level])
                if write or not path.is_file():
                    self._write(path, hashes)
            self._full[level] += 1
            self._partial[level] = []
            self._push(level + 1, _fold(hashes), write=write)

    def _write(self, path: Path, hashes: Sequence[bytes]) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(b"".join(hashes))
        temporary.replace(path)
        self._unsynced.append(path)

    def publish(self) -> None:
        """Write the incomplete tiles and sync all that was written: a checkpoint may be signed then."""
        before, self._partial_files = self._partial_files, []
        for level, hashes in enumerate(self._partial):
            if hashes:
                path = self._directory / tile_path(level, self._full[level], len(hashes))
                if path not in before:
                    self._write(path, hashes)
                self._partial_files.append(path)
        for path in self._unsynced:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._unsynced.clear()
        for path in before:
            if path not in self._partial_files:
                path.unlink(missing_ok=True)

    def _read_tile(self, level: int, number: int) -> tuple[bytes, ...]:
        path = self._directory / tile_path(level, number)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise DataLoss(f"{path}: the tile is missing") from None
        if len(data) != TILE_HASHES * HASH_BYTES:
            raise DataLoss(f"{path}: the tile has {len(data)} bytes instead of {TILE_HASHES * HASH_BYTES}")
        return tuple(data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES))

    def node(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree of 2**level leaves at `index` of that level."""
        tile_level, below = divmod(level, _TILE_HEIGHT)
        first = index << below
        number, offset = divmod(first, TILE_HASHES)
        if tile_level >= len(self._full):
            raise ValueError(f"no node at level {level}")
        hashes = self._partial[tile_level] if number == self._full[tile_level] else self._tile(tile_level, number)
        return _fold(hashes[offset : offset + (1 << below)])

    def root(self, size: int | None = None) -> bytes:
        """The root of the first `size` leaves; of all by default."""
        return root_of(self.size if size is None else size, self.node)

"""The Merkle tree over the records: hashing, proofs and their verification.

Nodes are kept as tiles of 256 hashes on disk; the newest, incomplete tile of each level is in memory. Tiles can be made
again from the records, so they are not synced: after a power failure a tree that does not give the signed root is made
again.

Source: RFC 6962 section 2.1, RFC 9162 section 2.1; C2SP tlog-tiles (https://c2sp.org/tlog-tiles).
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from moltbot_mesh.errors import DataLoss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

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
        return not proof and first_root == EMPTY_ROOT
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


Tile = list[list[bytes]]
"""The nodes of a tile by their height in it: `tile[0]` has up to 256 hashes, `tile[8]` the root of a full one."""


def _new_tile(hashes: Iterable[bytes] = ()) -> Tile:
    tile: Tile = [[] for _ in range(_TILE_HEIGHT + 1)]
    for found in hashes:
        _grow(tile, found)
    return tile


def _grow(tile: Tile, found: bytes) -> None:
    for row in tile:
        row.append(found)
        if len(row) & 1:
            return
        found = sha256(b"\x01" + row[-2] + found).digest()


def read_tile(directory: Path, level: int, number: int, width: int = TILE_HASHES) -> list[bytes]:
    """The first `width` hashes of a tile on disk, from its incomplete form or the complete one.

    Raises:
        DataLoss: It is missing or short.
    """
    name = tile_path(level, number, width)
    complete = directory / tile_path(level, number)
    for path in (directory / name, complete, *_incomplete(complete, width)):
        with contextlib.suppress(FileNotFoundError):
            data = path.read_bytes()
            break
    else:
        raise DataLoss(f"{name}: the tile is missing")
    if len(data) < width * HASH_BYTES or len(data) % HASH_BYTES:
        raise DataLoss(f"{path.relative_to(directory)}: {len(data)} bytes instead of {width * HASH_BYTES}")
    return [data[i : i + HASH_BYTES] for i in range(0, width * HASH_BYTES, HASH_BYTES)]


def _incomplete(complete: Path, width: int) -> Iterator[Path]:
    """Incomplete forms of a tile with at least `width` hashes: a log that grows replaces one by the next."""
    if width < TILE_HASHES:
        for path in complete.with_name(complete.name + ".p").glob("*"):
            if path.name.isdigit() and int(path.name) >= width:
                yield path


class Tree:
    """A tree that grows, its tiles on disk. Whoever shares it among threads locks it.

    Args:
        directory: Below which `tile/` stands.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: list[Tile] = [_new_tile()]
        """By tile level: its incomplete tile."""
        self._complete = [0]
        """By tile level: how many complete tiles there are."""
        self._unwritten: dict[tuple[int, int], Tile] = {}
        """By tile level and number: complete tiles that are not on disk yet."""
        self._partial_files: list[Path] = []
        self._tile = lru_cache(maxsize=512)(self._read_tile)
        self.size = 0

    def restore(self, size: int) -> None:
        """Become the tree of the first `size` leaves, as the tiles on disk hold them.

        Raises:
            DataLoss: A tile that this needs is missing or short; the tree is empty then.
        """
        self._clear()
        levels: list[Tile] = []
        complete: list[int] = []
        below = size
        while True:
            complete.append(below // TILE_HASHES)
            width = below % TILE_HASHES
            if levels:  # the hashes of an inner tile are the roots of the tiles below
                first = complete[-1] * TILE_HASHES
                hashes = [self._tile(len(levels) - 1, first + n)[_TILE_HEIGHT][0] for n in range(width)]
            else:
                hashes = self._read_hashes(0, complete[0], width) if width else []
            levels.append(_new_tile(hashes))
            below //= TILE_HASHES
            if below == 0:
                break
        self._open, self._complete, self.size = levels, complete, size
        names = (tile_path(n, full, len(tile[0])) for n, (full, tile) in enumerate(zip(complete, levels, strict=True)))
        self._partial_files = [path for name in names if (path := self._directory / name).is_file()]

    def _clear(self) -> None:
        self._open, self._complete, self.size = [_new_tile()], [0], 0
        self._unwritten.clear()
        self._tile.cache_clear()

    def append(self, leaf: bytes) -> None:
        """Add a leaf's hash. `flush` writes the tiles that this completes."""
        self._push(0, leaf)
        self.size += 1

    def _push(self, level: int, found: bytes) -> None:
        if level == len(self._open):
            self._open.append(_new_tile())
            self._complete.append(0)
        tile = self._open[level]
        _grow(tile, found)
        if tile[_TILE_HEIGHT]:
            self._unwritten[level, self._complete[level]] = tile
            self._complete[level] += 1
            self._open[level] = _new_tile()
            self._push(level + 1, tile[_TILE_HEIGHT][0])

    def _write(self, name: str, hashes: Sequence[bytes]) -> Path:
        path = self._directory / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(b"".join(hashes))
        return temporary.replace(path)

    def flush(self) -> None:
        """Write the complete tiles. What fails is tried again by the next call.

        Raises:
            OSError: The disk is full or fails.
        """
        for (level, number), tile in list(self._unwritten.items()):
            self._write(tile_path(level, number), tile[0])
            del self._unwritten[level, number]

    def publish(self) -> None:
        """Write all tiles, so that a checkpoint of this size can be checked from the disk alone.

        Raises:
            OSError: The disk is full or fails.
        """
        self.flush()
        written: list[Path] = []
        for level, tile in enumerate(self._open):
            if tile[0]:
                written.append(self._write(tile_path(level, self._complete[level], len(tile[0])), tile[0]))
        for path in self._partial_files:
            if path not in written:
                path.unlink(missing_ok=True)
        self._partial_files = written

    def _read_hashes(self, level: int, number: int, width: int = TILE_HASHES) -> list[bytes]:
        return read_tile(self._directory, level, number, width)

    def _read_tile(self, level: int, number: int) -> Tile:
        return _new_tile(self._read_hashes(level, number))

    def leaf(self, index: int) -> bytes:
        """The hash of a leaf."""
        return self.node(0, index)

    def node(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree of 2**level leaves at `index` of that level."""
        tile_level, height = divmod(level, _TILE_HEIGHT)
        number, offset = divmod(index << height, TILE_HASHES)
        if number == self._complete[tile_level]:
            tile = self._open[tile_level]
        else:
            tile = self._unwritten.get((tile_level, number)) or self._tile(tile_level, number)
        return tile[height][offset >> height]

    def root(self, size: int | None = None) -> bytes:
        """The root of the first `size` leaves; of all by default."""
        return root_of(self.size if size is None else size, self.node)

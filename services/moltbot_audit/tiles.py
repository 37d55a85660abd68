"""The Merkle tree on disk.

Nodes are kept as tiles of 256 hashes; the newest, incomplete tile of each level is in memory. Tiles can be made again
from the records, so they are not synced: after a power failure a tree that does not give the signed root is made again.

Source: C2SP tlog-tiles (https://c2sp.org/tlog-tiles).
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from moltbot_audit.merkle import HASH_BYTES, root_of
from moltbot_mesh.errors import DataLoss

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

TILE_HASHES = 256
_TILE_HEIGHT = 8
_ATTEMPTS = 5


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
    for _ in range(_ATTEMPTS):  # a log that grows may replace an incomplete tile between two looks
        for path in (directory / name, complete, *_incomplete(complete, width)):
            with contextlib.suppress(FileNotFoundError):
                data = path.read_bytes()
                if len(data) < width * HASH_BYTES or len(data) % HASH_BYTES:
                    where = path.relative_to(directory)
                    raise DataLoss(f"{where}: {len(data)} bytes instead of {width * HASH_BYTES}")
                return [data[i : i + HASH_BYTES] for i in range(0, width * HASH_BYTES, HASH_BYTES)]
        if width == TILE_HASHES:
            break
    raise DataLoss(f"{name}: the tile is missing")


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

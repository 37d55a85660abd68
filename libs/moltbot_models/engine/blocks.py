"""Reference-counted cache blocks, and the prefix cache that finds them again by content."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def root_hash(tenant: str) -> bytes:
    """Return the chain's start: tenants differ here, so none finds (or times) another's prompts."""
    return hashlib.blake2b(tenant.encode(), digest_size=16).digest()


def block_hash(previous: bytes, tokens: Sequence[int], content: bytes = b"") -> bytes:
    """Return the hash of a full block and of everything before it.

    Args:
        previous: Of the block before, or the root.
        tokens: Of the block, all `BLOCK_TOKENS`.
        content: Tells apart what the tokens do not: two images have the same ones.
    """
    return hashlib.blake2b(previous + np.asarray(tokens, np.int32).tobytes() + content, digest_size=16).digest()


class BlockPool:
    """Which blocks are used, by how many sequences, and which hold content worth finding again.

    A block is free (holds nothing), used (referenced), or cached (unreferenced, but published under its hash). Cached
    blocks are given away, least recently used first, once nothing is free.
    """

    def __init__(self, count: int) -> None:
        """Start with `count` free blocks, numbered from 0."""
        self.count = count
        self._free: deque[int] = deque(range(count))
        self._references = [0] * count
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Unreferenced blocks whose content can still be found."""
        return len(self._cached)

    @property
    def available(self) -> int:
        """Blocks that `allocate` can hand out."""
        return len(self._free) + len(self._cached)

    def references(self, block: int) -> int:
        """Return how many sequences hold the block."""
        return self._references[block]

    def allocate(self) -> int:
        """Hand out a block, referenced once; `available` must not be 0."""
        if self._free:
            block = self._free.popleft()
        else:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        self._references[block] = 1
        return block

    def release(self, block: int) -> None:
        """Give one reference back; the last one leaves the block cached if it is published, else free."""
        if self._references[block] < 1:
            raise AssertionError(f"block {block} is released more often than it was taken")
        self._references[block] -= 1
        if self._references[block] == 0:
            if block in self._hash_of:
                self._cached[block] = None
            else:
                self._free.append(block)

    def publish(self, block: int, key: bytes) -> None:
        """Let later prompts find this full block; content that is known already stays where it is."""
        if key not in self._block_of and block not in self._hash_of:
            self._block_of[key] = block
            self._hash_of[block] = key

    def peek(self, keys: Sequence[bytes]) -> tuple[int, int]:
        """Return how many leading keys are known, and how many of their blocks are unreferenced."""
        known = idle = 0
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            known += 1
            idle += self._references[block] == 0
        return known, idle

    def acquire(self, keys: Sequence[bytes]) -> list[int]:
        """Return the blocks of the leading known keys, each referenced once more."""
        blocks: list[int] = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            self._cached.pop(block, None)
            self._references[block] += 1
            blocks.append(block)
        return blocks

    def forget_all(self) -> None:
        """Drop every published content: after a failed step nothing in the cache can be trusted."""
        self._free.extend(self._cached)
        self._cached.clear()
        self._hash_of.clear()
        self._block_of.clear()

    def _forget(self, block: int) -> None:
        key = self._hash_of.pop(block, None)
        if key is not None:
            del self._block_of[key]

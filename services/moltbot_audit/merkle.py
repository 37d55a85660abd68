"""The Merkle tree over the records: hashing, proofs and their verification.

Source: RFC 6962 section 2.1, RFC 9162 section 2.1.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(record: bytes) -> bytes:
    """SHA-256(0x00 || record)."""
    return sha256(b"\x00" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def root_of(size: int, node: Callable[[int, int], bytes]) -> bytes:
    """The root of the first `size` leaves.

    Args:
        size: How many leaves.
        node: Gives the hash of the complete subtree of 2**level leaves at an index of that level.
    """
    return EMPTY_ROOT if size == 0 else subtree_hash(0, size, node)


def subtree_hash(start: int, size: int, node: Callable[[int, int], bytes]) -> bytes:
    """The hash of the `size` leaves from `start` on, where a tree of RFC 9162 has a subtree."""
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return node(level, start >> level)
    left = split(size)
    return node_hash(subtree_hash(start, left, node), subtree_hash(start + left, size - left, node))


def inclusion_proof(index: int, size: int, node: Callable[[int, int], bytes]) -> list[bytes]:
    """The audit path of a leaf (RFC 9162 section 2.1.3.1), leaf side first."""

    def path(at: int, start: int, length: int) -> list[bytes]:
        if length == 1:
            return []
        left = split(length)
        if at < left:
            return [*path(at, start, left), subtree_hash(start + left, length - left, node)]
        return [*path(at - left, start + left, length - left), subtree_hash(start, left, node)]

    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    return path(index, 0, size)


def consistency_proof(first: int, second: int, node: Callable[[int, int], bytes]) -> list[bytes]:
    """That the first `first` leaves of a tree of `second` are the earlier tree (RFC 9162 section 2.1.4.1)."""

    def path(m: int, start: int, length: int, *, complete: bool) -> list[bytes]:
        if m == length:
            return [] if complete else [subtree_hash(start, length, node)]
        left = split(length)
        if m <= left:
            return [*path(m, start, left, complete=complete), subtree_hash(start + left, length - left, node)]
        return [*path(m - left, start + left, length - left, complete=False), subtree_hash(start, left, node)]

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

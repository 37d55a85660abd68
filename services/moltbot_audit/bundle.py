"""Bundles: records with one proof that they stand in the log, for somebody who has nothing but the log's public key.

A bundle is lines of JSON. The first is the header. The others are the leaves and subtrees of the log's tree from left
to right: a record that is told, or the hash of a subtree of which nothing is told. Together they give the root that the
checkpoint in the header signs, so one pass in constant memory checks any number of records. A receipt is the bundle of
one record, as one JSON object with its lines in `items`.

`check_bundle.py` checks both, without this package.

Source: RFC 9162 section 2.1 for the tree; Ramabaja and Avdullahu, "Compact Merkle Multiproofs" (arXiv:2002.07648).
"""

from __future__ import annotations

import base64
import json
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moltbot_audit import merkle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FORMAT = "moltbot-audit-bundle/1"


@dataclass(frozen=True, slots=True)
class Header:
    """What a bundle says of itself."""

    checkpoint: str
    """The signed note, with the cosignatures it has."""
    size: int
    """Of the checkpoint's tree."""
    selection: str
    """What was asked for, in words: `trace 4bf9…`, `records 10 to 20`."""
    verifier_key: str
    """For comparison alone: who checks has it from elsewhere."""
    earlier: tuple[int, tuple[bytes, ...]] | None = None
    """The size of an earlier checkpoint that the reader has, and the proof that this log extends it."""
    time_stamp: bytes = b""
    """An RFC 3161 token over the checkpoint; empty if there is none."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A record that is told."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Subtree:
    """The hash of leaves of which nothing is told."""

    first: int
    count: int
    hash: bytes


def walk(sequences: Sequence[int], size: int, node: Callable[[int, int], bytes]) -> Iterator[Leaf | Subtree]:
    """The leaves and subtrees that give a tree's root, from left to right.

    Args:
        sequences: Of the records that are told, in order; a `range` will do.
        size: Of the tree.
        node: Gives the hash of the complete subtree of 2**level leaves at an index of that level.
    """

    def part(first: int, count: int) -> Iterator[Leaf | Subtree]:
        place = bisect_left(sequences, first)
        if place == len(sequences) or sequences[place] >= first + count:
            yield Subtree(first, count, merkle.subtree_hash(first, count, node))
        elif count == 1:
            yield Leaf(first)
        else:
            left = merkle.split(count)
            yield from part(first, left)
            yield from part(first + left, count - left)

    if size:
        yield from part(0, size)


def header_line(header: Header) -> dict[str, Any]:
    """The header as JSON."""
    line: dict[str, Any] = {
        "format": FORMAT,
        "selection": header.selection,
        "checkpoint": header.checkpoint,
        "verifier_key": header.verifier_key,
    }
    if header.earlier is not None:
        size, hashes = header.earlier
        line["earlier"] = {"size": size, "hashes": [_text(found) for found in hashes]}
    if header.time_stamp:
        line["time_stamp"] = _text(header.time_stamp)
    return line


def item_line(item: Leaf | Subtree, record: bytes = b"") -> dict[str, Any]:
    """A leaf, with its record, or a subtree as JSON."""
    if isinstance(item, Leaf):
        return {"sequence": item.sequence, "record": _text(record)}
    return {"first": item.first, "count": item.count, "hash": _text(item.hash)}


def as_line(tree: dict[str, Any]) -> bytes:
    """One line of a bundle."""
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

"""Writes bundles and receipts out of the log; `bundle.py` says what they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from moltbot_audit.bundle import Header, Leaf, as_line, header_line, item_line, walk
from moltbot_mesh.errors import FailedPrecondition, OutOfRange

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moltbot_audit.checkpoint import Checkpoint
    from moltbot_audit.ledger import Ledger

_MOST_OF_A_PIECE = 64 << 10


def bundle(ledger: Ledger, sequences: Sequence[int], selection: str, since: int | None = None) -> Iterator[bytes]:
    """The lines of a bundle, about 64 KiB at a time; blocks.

    Args:
        ledger: The log.
        sequences: Of the records, in order; a `range` for records next to each other.
        selection: What was asked for, in words.
        since: The size of an earlier checkpoint, which this log is then proven to extend.

    Raises:
        FailedPrecondition: The newest checkpoint does not cover them yet, or has fewer records than `since`.
        OutOfRange: A record has expired.
    """
    header = _header(ledger, sequences, selection, since)
    piece, size = [as_line(header_line(header))], 0
    for line in _items(ledger, sequences, header.size):
        piece.append(line)
        size += len(line)
        if size >= _MOST_OF_A_PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    yield b"".join(piece)


def receipt(ledger: Ledger, sequence: int) -> bytes:
    """The receipt of a record: its bundle as one JSON object; blocks.

    Raises:
        FailedPrecondition: The newest checkpoint does not cover it yet.
    """
    header = _header(ledger, [sequence], f"record {sequence}", None)
    items = [json.loads(line) for line in _items(ledger, [sequence], header.size)]
    return as_line(header_line(header) | {"items": items})


def _header(ledger: Ledger, sequences: Sequence[int], selection: str, since: int | None) -> Header:
    note, head, stamp = _best_checkpoint(ledger, sequences[-1] if sequences else 0, since or 0)
    if sequences and sequences[-1] >= head.size:
        raise FailedPrecondition("not yet under a checkpoint; try again in a second")
    if sequences and sequences[0] < ledger.oldest:
        raise OutOfRange(f"the records before {ledger.oldest} have expired; ask for those from there on")
    earlier = None
    if since is not None:
        _, hashes = ledger.consistency_proof(since, head.size)
        earlier = (since, tuple(hashes))
    return Header(note, head.size, selection, ledger.verifier_key, earlier, stamp)


def _best_checkpoint(ledger: Ledger, last: int, since: int) -> tuple[str, Checkpoint, bytes]:
    """A checkpoint that covers a record, and its time stamp: the oldest with a stamp, else one that others cosigned."""
    stamped = ledger.attestations.time_stamped(max(last, since - 1))
    if stamped is not None:
        return stamped
    cosigned = ledger.attestations.cosigned()
    if cosigned is not None and last < cosigned[1].size >= since:
        return *cosigned, b""
    return *ledger.checkpoint(), b""


def _items(ledger: Ledger, sequences: Sequence[int], size: int) -> Iterator[bytes]:
    if isinstance(sequences, range):
        records = ledger.records(sequences.start)
    else:
        records = (ledger.at(sequence).payload for sequence in sequences)
    for item in walk(sequences, size, ledger.node):
        yield as_line(item_line(item, next(records) if isinstance(item, Leaf) else b""))

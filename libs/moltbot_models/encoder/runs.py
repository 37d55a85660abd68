"""Runs of an encoder: several rows of tokens one behind another, padded only where the attention looks at them.

Linear layers, norms and activations take every token for itself, so a run of mixed lengths pays for its tokens and not
for the longest row. Only the attention sees a square of `texts` rows and `length` columns.

Source: Zhai et al. 2022, ByteTransformer, arXiv:2210.03052 (padding-free encoders).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from tokenizers import Encoding

RUN_TOKENS = 256
"""Of one run of several rows, at most: with it grow what lies between the layers and the shapes that kernels are kept
for. 512 would give many clients a twentieth more texts a second, and take 13 MiB more."""
_SQUARE = 2 * RUN_TOKENS
"""Places of the attention's square, where there are several rows."""
_RUN_COST = 48.0
"""What a run costs besides its tokens, in tokens."""
_PLACE_COST = 0.1
"""What a place in the attention's square costs, in tokens: it is filled and emptied; what it sees comes on top."""
_FINE_STEPS = 8
"""Lengths of so many buckets are told apart one by one, those of up to twice as many in steps of two, and so on."""


def cut(lengths: Sequence[int], *, most: int, bucket: int, hidden: int) -> list[int]:
    """Cut rows that are sorted by length into runs that cost least together.

    Args:
        lengths: Tokens of the rows, ascending.
        most: Rows of a run.
        bucket: See `bucket_of`.
        hidden: Of the model: the wider it is, the less the attention counts beside the linear layers.

    Returns:
        Where each run ends; the last is the number of rows.
    """
    least, begins, before = [0.0], list[int](), [0]
    for length in lengths:
        before.append(before[-1] + length)
    for end in range(1, len(lengths) + 1):
        width = bucket_of(lengths[end - 1], bucket)
        choices: list[tuple[float, int]] = []
        for begin in range(end - 1, max(0, end - most) - 1, -1):
            tokens, places = before[end] - before[begin], row_class(end - begin, most) * width
            if choices and (tokens > RUN_TOKENS or places > _SQUARE):
                break
            square = places * (_PLACE_COST + width / (2 * hidden))
            choices.append((least[begin] + _RUN_COST + tokens + square, begin))
        cost, begin = min(choices)
        least.append(cost)
        begins.append(begin)
    ends: list[int] = []
    place = len(lengths)
    while place:
        ends.append(place)
        place = begins[place - 1]
    return ends[::-1]


def packed(
    rows: Sequence[Encoding], *, most: int, bucket: int, longest: int, kinds: bool
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """Lay the rows of a run one behind another.

    Tokens, rows and the length of the square are filled up to few sizes, since each costs up to half a megabyte of
    compiled kernels.

    Args:
        rows: What the tokenizer gave, one for each text.
        most: Rows of a run.
        bucket: Sizes of tokens are multiples of this, or of its half.
        longest: Row that the model takes.
        kinds: Whether it takes `token_type_ids`.

    Returns:
        The tokens' numbers, i64 [tokens], and the other inputs of `graph.build_graph`; the rows' tokens come first.
    """
    counts = np.array([len(row.ids) for row in rows])
    total = int(counts.sum())
    tokens = _filled(total, bucket)
    texts, length = row_class(len(rows), most), min(bucket_of(int(counts.max()), bucket), longest)
    ids, positions, place_of = (np.zeros(tokens, np.int64) for _ in range(3))
    token_at, mask = (np.zeros((texts, length), np.int64) for _ in range(2))
    mask[: len(rows)] = np.arange(length) < counts[:, None]
    mask[len(rows) :, 0] = 1  # an attention over nothing would be no number
    places = np.flatnonzero(mask[: len(rows)])
    ids[:total] = np.concatenate([row.ids for row in rows])
    positions[:total], place_of[:total] = places % length, places
    token_at.reshape(-1)[places] = np.arange(total)
    inputs = {"positions": positions, "attention_mask": mask, "token_at": token_at, "place_of": place_of}
    if kinds:
        inputs["token_type_ids"] = np.zeros(tokens, np.int64)
        inputs["token_type_ids"][:total] = np.concatenate([row.type_ids for row in rows])
    return ids, inputs


def _filled(tokens: int, bucket: int) -> int:
    """Round the tokens of a run up: by half a bucket for the few of a text alone, for which a bucket is an eighth."""
    if tokens > RUN_TOKENS:
        return bucket_of(tokens, bucket)
    step = bucket if tokens > _FINE_STEPS * bucket else max(1, bucket // 2)
    return -(-tokens // step) * step


def bucket_of(tokens: int, bucket: int) -> int:
    """Round a length up to one of few.

    Beyond `_FINE_STEPS` buckets at most a quarter is lost. Source: jemalloc's size classes, 4 between powers of two.
    """
    step = bucket
    while tokens > _FINE_STEPS * step:
        step *= 2
    return max(1, -(-tokens // step)) * step


def row_class(rows: int, most: int) -> int:
    """Round the rows of a run up to a power of two, or to `most`: for the same reason."""
    return min(most, 1 << (rows - 1).bit_length())

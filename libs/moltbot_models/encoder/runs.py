"""Runs of an encoder: several rows of tokens one behind another, padded only where the attention looks at them.

Linear layers, norms and activations take every token for itself, so a run of mixed lengths pays for its tokens and not
for the longest row. Only the attention sees a square of `texts` rows and `length` columns.

Source: Zhai et al. 2022, ByteTransformer, arXiv:2210.03052 (padding-free encoders).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from moltbot_models.encoder.processor import FloatPrecision

RUN_TOKENS = 256
"""Of one run of several rows, at most: with it grow what lies between the layers and the shapes that kernels are kept
for. 512 would give many clients a twentieth more texts a second, and take 13 MiB more."""
_SQUARE = 2 * RUN_TOKENS
"""Places of the attention's square, where there are several rows."""
_RUN_COST = 48.0
"""What a run costs besides its tokens, in tokens."""
_FINE_STEPS = 8
"""Lengths of so many buckets are told apart one by one, those of up to twice as many in steps of two, and so on."""
STEP_TOKENS: Mapping[FloatPrecision, int] = MappingProxyType({"f32": 8, "bf16": 16})
"""Tokens of a run are filled up to a multiple of this where they are few, as of a text alone. BF16 is multiplied in
tiles of 16 rows, and its kernels take more memory."""
_STEP_OF_MANY = 16
"""The same where they are more than half of `RUN_TOKENS`."""


class Row(Protocol):
    """What the tokenizer makes of a text or a pair."""

    @property
    def ids(self) -> list[int]:
        """Numbers of tokens."""
        ...

    @property
    def type_ids(self) -> list[int]:
        """For each token which text of the pair it is of."""
        ...


def cut(lengths: Sequence[int], *, most: int, bucket: int, longest: int, hidden: int) -> list[int]:
    """Cut rows that are sorted by length into runs that cost least together.

    Args:
        lengths: Tokens of the rows, ascending.
        most: Rows of a run.
        bucket: Of the square's length; see `bucket_of`.
        longest: Row that the model takes.
        hidden: Of the model: the wider it is, the less the attention counts beside the linear layers.

    Returns:
        Where each run ends; the last is the number of rows.
    """
    least, begins, before = [0.0], list[int](), [0]
    for length in lengths:
        before.append(before[-1] + length)
    for end in range(1, len(lengths) + 1):
        width = min(bucket_of(lengths[end - 1], bucket), longest)
        choices: list[tuple[float, int]] = []
        for begin in range(end - 1, max(0, end - most) - 1, -1):
            tokens, places = before[end] - before[begin], row_class(end - begin, most) * width
            if choices and (tokens > RUN_TOKENS or places > _SQUARE):
                break
            choices.append((least[begin] + _RUN_COST + tokens + places * width / (2 * hidden), begin))
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
    rows: Sequence[Row], *, most: int, bucket: int, step: int, longest: int, kinds: bool
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """Lay the rows of a run one behind another.

    Tokens, rows and the length of the square are filled up to few sizes, since each costs up to half a megabyte of
    compiled kernels. What fills a row up points at a token of its own text; what fills the run up is computed and
    dropped.

    Args:
        rows: One for each text, none without a token.
        most: Rows of a run.
        bucket: Of the square's length; see `bucket_of`.
        step: Of the tokens; see `STEP_TOKENS`.
        longest: Row that the model takes.
        kinds: Whether it takes `token_type_ids`.

    Returns:
        The tokens' numbers, i64 [tokens], and the other inputs of `graph.build_graph`; the rows' tokens come first.
    """
    counts = np.array([len(row.ids) for row in rows])
    total = int(counts.sum())
    tokens = _filled(total, step)
    texts, length = row_class(len(rows), most), min(bucket_of(int(counts.max()), bucket), longest)
    ids, positions, place_of = (np.zeros(tokens, np.int64) for _ in range(3))
    token_at, mask = (np.zeros((texts, length), np.int64) for _ in range(2))
    mask[: len(rows)] = np.arange(length) < counts[:, None]
    mask[len(rows) :, 0] = 1  # an attention over nothing would be no number
    # What a mask hides is multiplied by nothing, which leaves what is no number as it is: let it be one's own.
    token_at[: len(rows)] = (np.cumsum(counts) - counts)[:, None]
    places = np.flatnonzero(mask[: len(rows)])
    ids[:total] = np.concatenate([row.ids for row in rows])
    positions[:total], place_of[:total] = places % length, places
    token_at.reshape(-1)[places] = np.arange(total)
    inputs = {"positions": positions, "attention_mask": mask, "token_at": token_at, "place_of": place_of}
    if kinds:
        inputs["token_type_ids"] = np.zeros(tokens, np.int64)
        inputs["token_type_ids"][:total] = np.concatenate([row.type_ids for row in rows])
    return ids, inputs


def _filled(tokens: int, step: int) -> int:
    if tokens > RUN_TOKENS:
        return bucket_of(tokens, _STEP_OF_MANY)
    if tokens > RUN_TOKENS // 2:
        step = _STEP_OF_MANY
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

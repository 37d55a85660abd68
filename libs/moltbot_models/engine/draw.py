"""Finds the candidates of rows that share their settings, and draws: each pass of numpy is over all rows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moltbot_models.engine.sampler import Candidates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from moltbot_models.engine.sampler import DrawSettings

_NUCLEI = (64, 1024)
"""Candidates sorted at first for top-p: the nucleus is nearly always within them, and a full sort costs far more."""
_COLUMNS = 512
_FOLDS = 4
_RUN = 128
"""Weights summed at first when a whole vocabulary is drawn from: one running sum over it would cost ten times."""
_FORBIDDEN = np.float32(-np.inf)
_LEAST = np.finfo(np.float32).min


def largest(rows: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the `count` greatest of each row [rows, vocabulary], greatest first, the lower id before its equal.

    The greatest of every column of the folded row bound the answer from below, so that few numbers are left to sort.

    Returns:
        Places and values, [rows, n]: n is less than `count` if no row has as many above minus infinity; minus infinity
        fills up a row that has fewer than another.
    """
    number, size = rows.shape
    width = max(_COLUMNS, _FOLDS * count)
    least = np.array([[_LEAST]])
    if folds := size // width:
        peaks = rows[:, : folds * width].reshape(number, folds, width).max(axis=1)
        peaks.partition(width - count, axis=1)
        least = np.maximum(peaks[:, width - count, None], _LEAST)
    kept = (rows >= least).reshape(-1).nonzero()[0]
    values = rows.reshape(-1)[kept]
    if number == 1:
        order = (-values).argsort(kind="stable")[:count]
        return kept[order][None], values[order][None]
    row, place = np.divmod(kept, size)
    column = np.arange(kept.size) - row.searchsorted(np.arange(number))[row]
    table = np.full((number, int(column.max(initial=0)) + 1), _FORBIDDEN)
    places = np.zeros(table.shape, np.int64)
    table[row, column], places[row, column] = values, place
    order = (-table).argsort(axis=1, kind="stable")[:, :count]
    every = np.arange(number)[:, None]
    return places[every, order], table[every, order]


def candidates_of(logits: NDArray[np.float32], settings: DrawSettings) -> Candidates:
    """Return what may be drawn in rows [rows, vocabulary]; only for a temperature above 0.

    Source: top-k (arXiv:1805.04833), nucleus sampling (arXiv:1904.09751), min-p (arXiv:2407.01082); applied in
    transformers' order.
    """
    tokens, weights = None, logits
    if 0 < settings.top_k < logits.shape[1]:
        tokens, weights = largest(logits, settings.top_k)
    weights = weights / np.float32(settings.temperature)
    if settings.top_p < 1.0:
        tokens, weights = _nucleus(tokens, weights, settings.top_p)
    if settings.min_p > 0.0:
        least = weights.max(axis=1, keepdims=True) + np.log(np.float32(settings.min_p))
        weights = np.where(weights >= least, weights, _FORBIDDEN)
    return Candidates(tokens, weights)


def draw(candidates: Candidates, uniforms: Sequence[float]) -> list[int]:
    """Draw a token id for each row, with probability proportional to its weight.

    Args:
        candidates: Of some rows, each with at least one.
        uniforms: A random number in [0, 1) for each row.
    """
    scaled = _scaled(candidates.log_weights)
    share = np.asarray(uniforms)
    if candidates.tokens is not None:
        return candidates.tokens_at(_where(np.cumsum(scaled, axis=1, dtype=np.float64), share))
    # First the run that it falls into, then its place there.
    size = scaled.shape[1]
    begins = np.arange(0, size, _RUN)
    runs = np.cumsum(np.add.reduceat(scaled, begins, axis=1, dtype=np.float64), axis=1)
    run = _where(runs, share)
    rows = np.arange(len(run))
    before = np.where(run > 0, runs[rows, run - 1], 0.0)
    share = (share * runs[:, -1] - before) / (runs[rows, run] - before)
    places = begins[run][:, None] + np.arange(min(_RUN, size))
    weights = np.where(places < size, np.take_along_axis(scaled, np.minimum(places, size - 1), axis=1), 0)
    return candidates.tokens_at(begins[run] + _where(np.cumsum(weights, axis=1, dtype=np.float64), share))


def _where(sums: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the first place of each row whose running sum is beyond a share of the whole: never one of no weight."""
    whole = sums[:, -1]
    return (sums <= np.minimum(share * whole, np.nextafter(whole, 0))[:, None]).sum(axis=1)


def _nucleus(
    tokens: NDArray[np.int64] | None, weights: NDArray[np.float32], top_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Keep the smallest set whose probability reaches `top_p`, most likely first."""
    if tokens is not None:
        sums = np.cumsum(_scaled(weights), axis=1, dtype=np.float64)
        return _cut(tokens, weights, sums, top_p * sums[:, -1])
    wanted = top_p * _scaled(weights).sum(axis=1, dtype=np.float64)
    for size in (*_NUCLEI, weights.shape[1]):
        places, best = largest(weights, size)
        sums = np.cumsum(_scaled(best), axis=1, dtype=np.float64)
        if size >= weights.shape[1] or (sums[:, -1] >= wanted).all():
            return _cut(places, best, sums, wanted)
    raise AssertionError  # the last size is all there is


def _cut(
    tokens: NDArray[np.int64],
    weights: NDArray[np.float32],
    sums: NDArray[np.float64],
    wanted: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    sizes = (sums < wanted[:, None]).sum(axis=1) + 1
    width = min(int(sizes.max()), weights.shape[1])
    kept = np.arange(width) < sizes[:, None]
    return tokens[:, :width], np.where(kept, weights[:, :width], _FORBIDDEN)


def _scaled(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities [rows, n], the greatest of each row being 1."""
    return np.exp(weights - weights.max(axis=1, keepdims=True))

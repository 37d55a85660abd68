"""A sampler hook that marks with the plain Gumbel function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moltbot_models.engine.draw import largest
from moltbot_models.engine.plain_mark import LAST_SHIFT, MIX, MOST_CANDIDATES, STEP, context_seed
from moltbot_models.engine.sampler import Candidates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from moltbot_models.engine.sampler import SamplingContext


class GumbelMark:
    """Chooses every token that can be marked; the others are drawn as usual. Holds no state of an answer.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def alter(self, logits: Sequence[NDArray[np.float32]], contexts: Sequence[SamplingContext]) -> None:
        """Change nothing."""

    def choose(self, candidates: Candidates, contexts: Sequence[SamplingContext]) -> list[int | None]:
        """Return the marked token of each row, None where it has none."""
        seeds = [context_seed(self._key, context.output_tokens) for context in contexts]
        weights, tokens = candidates.log_weights, candidates.tokens
        if weights.shape[1] > MOST_CANDIDATES:
            kept, weights = largest(weights, MOST_CANDIDATES)
            tokens = kept if tokens is None else np.take_along_axis(tokens, kept, axis=1)
        if tokens is None:
            tokens = np.broadcast_to(np.arange(weights.shape[1]), weights.shape)
        noise = -np.log(-np.log(uniforms(np.array([[seed or 0] for seed in seeds], np.uint64), tokens)))
        chosen = Candidates(tokens, weights).tokens_at((weights + noise).argmax(axis=1))
        return [None if seed is None else token for seed, token in zip(seeds, chosen, strict=True)]


def uniforms(seeds: NDArray[np.uint64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """`plain_mark.uniform` of many tokens [rows, n], with a seed for each row [rows, 1]."""
    mixed = seeds + (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(STEP)
    for shift, factor in MIX:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(LAST_SHIFT)
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53

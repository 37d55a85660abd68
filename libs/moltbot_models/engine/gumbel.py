"""A sampler hook that marks with the plain Gumbel function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moltbot_models.engine.plain_mark import LAST_SHIFT, MIX, MOST_CANDIDATES, STEP, context_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from moltbot_models.engine.sampler import Candidates, SamplingContext


class GumbelMark:
    """Chooses every token that can be marked; the others are drawn as usual. Holds no state of an answer.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def alter(self, logits: Sequence[NDArray[np.float32]], contexts: Sequence[SamplingContext]) -> None:
        """Change nothing."""

    def choose(self, candidates: Sequence[Candidates], contexts: Sequence[SamplingContext]) -> list[int | None]:
        """Return the marked token of each row, None where it has none."""
        return [self._chosen(one, context) for one, context in zip(candidates, contexts, strict=True)]

    def _chosen(self, candidates: Candidates, context: SamplingContext) -> int | None:
        seed = context_seed(self._key, context.output_tokens)
        if seed is None:
            return None
        weights, tokens = candidates.log_weights, candidates.tokens
        if weights.size > MOST_CANDIDATES:
            kept = np.argpartition(weights, -MOST_CANDIDATES)[-MOST_CANDIDATES:]
            weights, tokens = weights[kept], kept if tokens is None else tokens[kept]
        if tokens is None:
            tokens = np.arange(weights.size)
        return int(tokens[(weights - np.log(-np.log(uniforms(seed, tokens)))).argmax()])


def uniforms(seed: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """`plain_mark.uniform` of many tokens [n]."""
    mixed = np.uint64(seed) + (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(STEP)
    for shift, factor in MIX:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(LAST_SHIFT)
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53

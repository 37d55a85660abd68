"""Log-probabilities of the drawn tokens and their alternatives, under the model's own distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moltbot_models.engine.draw import largest
from moltbot_models.generation import TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from moltbot_models.engine.detokenize import Vocabulary


def token_logprobs(
    logits: NDArray[np.float32], tokens: Sequence[int], tops: Sequence[int], vocabulary: Vocabulary
) -> list[TokenLogprob]:
    """Return what the model thought of each row's token, before penalties, temperature and hooks.

    Args:
        logits: The raw rows [rows, vocabulary].
        tokens: The token drawn in each row.
        tops: How many alternatives to report for each row, most likely first.
        vocabulary: Names the tokens.
    """
    peaks = logits.max(axis=1)
    totals = peaks + np.log(np.exp(logits - peaks[:, None]).sum(axis=1, dtype=np.float64))
    values: list[float] = (logits[np.arange(len(tokens)), tokens] - totals).tolist()
    ids, alternatives = [list[int]()] * len(tokens), [list[float]()] * len(tokens)
    if most := max(tops):
        places, best = largest(logits, most)
        ids, alternatives = places.tolist(), (best - totals[:, None]).tolist()

    def one(token: int, value: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = vocabulary.bytes_of(token)
        return TokenLogprob(raw.decode("utf-8", "replace"), value, raw, top)

    return [
        one(token, value, tuple(map(one, ids[row][: tops[row]], alternatives[row][: tops[row]])))
        for row, (token, value) in enumerate(zip(tokens, values, strict=True))
    ]

"""Log-probabilities of the drawn token and its alternatives, under the model's own distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moltbot_models.generation import TokenLogprob

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moltbot_models.engine.detokenize import Vocabulary


def token_logprob(logits: NDArray[np.float32], token: int, top: int, vocabulary: Vocabulary) -> TokenLogprob:
    """Return what the model thought of `token`, before penalties, temperature and hooks.

    Args:
        logits: The raw row [vocabulary].
        token: The drawn token.
        top: How many alternatives to report, most likely first.
        vocabulary: Names the tokens.
    """
    peak = logits.max()
    total = float(peak) + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))

    def one(index: int, alternatives: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = vocabulary.bytes_of(index)
        return TokenLogprob(raw.decode("utf-8", "replace"), float(logits[index]) - total, raw, alternatives)

    if top < 1:
        return one(token)
    best = np.argpartition(logits, -top)[-top:] if top < logits.size else np.arange(logits.size)
    return one(token, tuple(one(int(index)) for index in best[np.argsort(-logits[best], kind="stable")]))

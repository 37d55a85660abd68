"""Draws the next token from logits, with a hook before and at the choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from moltbot_models.generation import GenerationRequest, Sampling

_PARTITION = 1024
"""Candidates sorted at first for top-p: the nucleus is nearly always within them, and a full sort costs ten times."""

_LEAST_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """Sampling with the model's defaults filled in."""

    temperature: float
    """0 takes the most likely token."""
    top_k: int
    """0 means all."""
    top_p: float
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    seed: int | None


@dataclass(frozen=True, slots=True)
class SamplingContext:
    """What a hook may know about the row it is given."""

    request: GenerationRequest
    prompt_tokens: Sequence[int]
    output_tokens: Sequence[int]
    """Tokens of the answer so far; the row is about the one that follows."""
    settings: DrawSettings


@dataclass(frozen=True, slots=True)
class Candidates:
    """The tokens that may be drawn, after penalties, temperature, top-k, top-p and min-p."""

    tokens: NDArray[np.int64] | None
    """Token ids [n]; None means the whole vocabulary, so that position and id are the same."""
    log_weights: NDArray[np.float32]
    """Unnormalised log-probabilities [n], in the order of `tokens`."""

    def token_at(self, position: int) -> int:
        """Return the token id at a position of `log_weights`."""
        return position if self.tokens is None else int(self.tokens[position])


class SamplerHook(Protocol):
    """Takes part in sampling: a constraint alters logits, a watermark chooses the token.

    Both methods are called in the engine's thread, once a step for all sequences that share the hook object, and must
    be quick. An exception ends these sequences with `ENGINE_FAILED` and no others.
    """

    def alter(self, logits: Sequence[NDArray[np.float32]], contexts: Sequence[SamplingContext]) -> None:
        """Change rows [vocabulary] of raw logits in place; minus infinity forbids a token."""
        ...

    def choose(self, candidates: Sequence[Candidates], contexts: Sequence[SamplingContext]) -> Sequence[int | None]:
        """Return a token id for each row, or None to have it drawn as usual.

        Called for rows with a temperature alone: a greedy row has nothing left to choose.
        """
        ...


def draw_settings(sampling: Sampling, defaults: Mapping[str, Any]) -> DrawSettings:
    """Fill in what the request leaves open from generation_config.json.

    As in transformers, a model whose generation_config.json does not say `do_sample` answers greedily.
    """
    samples = bool(defaults.get("do_sample", False))

    def pick(value: float | None, key: str, otherwise: float) -> float:
        return value if value is not None else float(defaults.get(key) or otherwise) if samples else otherwise

    temperature = pick(sampling.temperature, "temperature", 1.0 if samples else 0.0)
    return DrawSettings(
        # Below this, dividing by it overflows, and only the most likely token is ever drawn anyway.
        temperature=temperature if temperature >= _LEAST_TEMPERATURE else 0.0,
        top_k=max(0, int(pick(sampling.top_k, "top_k", 0))),
        top_p=pick(sampling.top_p, "top_p", 1.0),
        min_p=pick(sampling.min_p, "min_p", 0.0),
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        repetition_penalty=float(defaults.get("repetition_penalty") or 1.0),
        seed=sampling.seed,
    )


class Sampler:
    """Draws the tokens of one sequence; its random state advances with each drawn token alone."""

    def __init__(self, settings: DrawSettings) -> None:
        self.settings = settings
        # Clients may send negative seeds; numpy takes none.
        seed = None if settings.seed is None else settings.seed % 2**64
        self._random = np.random.Generator(np.random.PCG64(seed))

    def penalize(self, logits: NDArray[np.float32], prompt: Sequence[int], output: Sequence[int]) -> None:
        """Apply frequency, presence (over the answer) and repetition penalties (over everything) in place.

        Source: OpenAI API reference (frequency and presence), CTRL (arXiv:1909.05858) section 4.1 (repetition).
        """
        settings = self.settings
        if settings.repetition_penalty != 1.0:
            seen = np.unique(np.concatenate([np.asarray(prompt, np.int64), np.asarray(output, np.int64)]))
            values = logits[seen]
            logits[seen] = np.where(
                values > 0, values / settings.repetition_penalty, values * settings.repetition_penalty
            )
        if output and (settings.frequency_penalty or settings.presence_penalty):
            tokens, counts = np.unique(np.asarray(output, np.int64), return_counts=True)
            logits[tokens] -= (settings.frequency_penalty * counts + settings.presence_penalty).astype(np.float32)

    def candidates(self, logits: NDArray[np.float32]) -> Candidates:
        """Return what may be drawn; only for a temperature above 0.

        Source: top-k (arXiv:1805.04833), nucleus sampling (arXiv:1904.09751), min-p (arXiv:2407.01082); applied in
        transformers' order.
        """
        settings = self.settings
        weights = logits / np.float32(settings.temperature)
        tokens: NDArray[np.int64] | None = None
        if 0 < settings.top_k < weights.size:
            tokens = np.argpartition(weights, -settings.top_k)[-settings.top_k :]
            weights = weights[tokens]
        if settings.top_p < 1.0:
            kept = _nucleus(weights, settings.top_p)
            tokens = kept if tokens is None else tokens[kept]
            weights = weights[kept]
        if settings.min_p > 0.0:
            kept = np.flatnonzero(weights >= weights.max() + np.log(np.float32(settings.min_p)))
            tokens = kept if tokens is None else tokens[kept]
            weights = weights[kept]
        return Candidates(tokens, weights)

    def draw(self, candidates: Candidates) -> int:
        """Draw a token id with probability proportional to its weight."""
        weights = candidates.log_weights
        cumulative = np.cumsum(np.exp(weights - weights.max()), dtype=np.float64)
        position = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return candidates.token_at(min(int(position), weights.size - 1))


def _nucleus(weights: NDArray[np.float32], top_p: float) -> NDArray[np.int64]:
    """Return positions of the smallest set whose probability reaches `top_p`, most likely first."""
    scaled = np.exp(weights - weights.max())
    wanted = top_p * float(scaled.sum(dtype=np.float64))
    size = min(_PARTITION, weights.size)
    while True:
        top = np.argpartition(scaled, -size)[-size:] if size < weights.size else np.arange(weights.size)
        order = top[np.argsort(-scaled[top], kind="stable")]
        cumulative = np.cumsum(scaled[order], dtype=np.float64)
        if cumulative[-1] >= wanted or size == weights.size:
            return order[: int(np.searchsorted(cumulative, wanted)) + 1]
        size = weights.size

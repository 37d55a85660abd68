"""Settings of the draw, what a hook sees of it, and what one sequence adds: its seed and its penalties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from moltbot_models.generation import GenerationRequest, Sampling

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

    @property
    def filters(self) -> tuple[float, int, float, float]:
        """What decides the candidates: rows that agree in it are computed together."""
        return self.temperature, self.top_k, self.top_p, self.min_p

    @property
    def penalizes(self) -> bool:
        """Whether tokens that came before are made less likely."""
        return bool(self.frequency_penalty or self.presence_penalty or self.repetition_penalty != 1.0)


@dataclass(frozen=True, slots=True)
class SamplingContext:
    """What a hook may know about the row it is given; the same object from a request's first token to its last."""

    request: GenerationRequest
    tokens: Sequence[int]
    """Prompt and answer so far, which grow; the row is about the token that follows. Not to be changed."""
    prompt_length: int
    settings: DrawSettings

    @property
    def answered(self) -> int:
        """How many tokens the answer has."""
        return len(self.tokens) - self.prompt_length

    @property
    def prompt_tokens(self) -> Sequence[int]:
        """The prompt, copied."""
        return self.tokens[: self.prompt_length]

    @property
    def output_tokens(self) -> Sequence[int]:
        """The answer so far, copied."""
        return self.tokens[self.prompt_length :]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The tokens that may be drawn in each row, after penalties, temperature, top-k, top-p and min-p."""

    tokens: NDArray[np.int64] | None
    """Token ids [rows, n], most likely first; None means the whole vocabulary, so that place and id are the same."""
    log_weights: NDArray[np.float32]
    """Unnormalised log-probabilities [rows, n]; minus infinity for what may not be drawn."""

    def tokens_at(self, places: NDArray[np.int64]) -> list[int]:
        """Return the token id at a place of each row [rows]."""
        found = places if self.tokens is None else self.tokens[np.arange(len(places)), places]
        return found.tolist()


class SamplerHook(Protocol):
    """Takes part in sampling: a constraint alters logits, a watermark chooses the token.

    Called in the engine's thread, once a step for the sequences that share the hook object, so it must be quick: with
    numpy over all rows at once rather than row by row. An exception ends these sequences with `ENGINE_FAILED` and no
    others. The arrays live until the call returns.
    """

    def alter(self, logits: Sequence[NDArray[np.float32]], contexts: Sequence[SamplingContext]) -> None:
        """Change rows [vocabulary] of raw logits in place; minus infinity forbids a token."""
        ...

    def choose(self, candidates: Candidates, contexts: Sequence[SamplingContext]) -> Sequence[int | None]:
        """Return a token id for each row, or None to have it drawn as usual.

        Called once a step for those of its sequences that agree in temperature, top-k, top-p and min-p; not for greedy
        ones, which have nothing left to choose.
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
    """What one sequence adds to the draw."""

    def __init__(self, settings: DrawSettings) -> None:
        self.settings = settings
        # Clients may send negative seeds; numpy takes none.
        seed = None if settings.seed is None else settings.seed % 2**64
        self._random = np.random.Generator(np.random.PCG64(seed))

    def uniform(self) -> float:
        """Return the next random number of this sequence, in [0, 1)."""
        return self._random.random()

    def penalize(self, logits: NDArray[np.float32], context: SamplingContext) -> None:
        """Apply frequency, presence (over the answer) and repetition penalties (over everything) in place.

        Source: OpenAI API reference (frequency and presence), CTRL (arXiv:1909.05858) section 4.1 (repetition).
        """
        settings = self.settings
        if settings.repetition_penalty != 1.0:
            seen = np.unique(np.asarray(context.tokens, np.int64))
            values = logits[seen]
            logits[seen] = np.where(
                values > 0, values / settings.repetition_penalty, values * settings.repetition_penalty
            )
        if context.answered and (settings.frequency_penalty or settings.presence_penalty):
            tokens, counts = np.unique(np.asarray(context.output_tokens, np.int64), return_counts=True)
            logits[tokens] -= (settings.frequency_penalty * counts + settings.presence_penalty).astype(np.float32)

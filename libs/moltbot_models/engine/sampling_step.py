"""Samples all rows of a step: those that share hook and settings are computed together, one bad row ends alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.draw import candidates_of, draw
from moltbot_models.engine.logprobs import token_logprobs

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray

    from moltbot_models.engine.constraint import Constraint, Grammars
    from moltbot_models.engine.detokenize import Vocabulary
    from moltbot_models.engine.sampler import Sampler, SamplerHook, SamplingContext
    from moltbot_models.generation import TokenLogprob

    Results = list[int | EngineError | None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One sequence as sampling sees it; the same object at every step."""

    context: SamplingContext
    sampler: Sampler
    hook: SamplerHook | None = None
    constraint: Constraint | None = None
    ends: frozenset[int] = frozenset()
    """Tokens that may not come before the answer has `min_tokens`."""

    @property
    def bound(self) -> Constraint | None:
        """Its constraint, once that holds."""
        return self.constraint if self.constraint is not None and self.constraint.holds else None

    @property
    def cannot_end(self) -> bool:
        """Whether its end is forbidden now."""
        return self.context.answered < self.context.request.sampling.min_tokens

    @property
    def altered(self) -> bool:
        """Whether its logits may be changed before the draw."""
        penalizes = self.sampler.settings.penalizes
        return self.hook is not None or self.bound is not None or penalizes or self.cannot_end


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, and its log-probability where the request asks for it."""

    token: int
    logprob: TokenLogprob | None


def sample_rows(
    logits: NDArray[np.float32], rows: Sequence[Row], vocabulary: Vocabulary, grammars: Grammars
) -> list[Drawn | EngineError]:
    """Return a token, or why there is none, for each row.

    What a constraint forbids is gone before penalties and hooks see the row; log-probabilities are the model's own, as
    if there were no constraint.

    Args:
        logits: Raw logits [rows, vocabulary]; overwritten.
        rows: The sequences that get a token in this step.
        vocabulary: Names the tokens.
        grammars: Of the constraints.
    """
    results: Results = [None] * len(rows)
    asked = [number for number, row in enumerate(rows) if row.context.request.sampling.logprobs]
    raw = {number: logits[number].copy() for number in asked if rows[number].altered}
    _alter(logits, rows, grammars, results)
    best = logits.argmax(axis=1)
    groups: dict[Hashable, list[int]] = {}
    finite = np.isfinite(_at(logits, best)).tolist()
    for number, (row, token, drawable) in enumerate(zip(rows, best.tolist(), finite, strict=True)):
        if results[number] is not None:
            continue
        settings = row.sampler.settings
        if not drawable:
            # Also true of NaN: a damaged checkpoint must not speak nonsense with a straight face.
            results[number] = EngineError("ENGINE_FAILED", "no token is left to draw: logits are not finite")
        elif settings.temperature == 0:
            results[number] = token
        else:
            groups.setdefault((id(row.hook), settings.filters), []).append(number)
    for members in groups.values():
        _draw(logits, rows, members, results)
    for number, row in enumerate(rows):
        if (constraint := row.bound) is not None:
            results[number] = _accepted(constraint, results[number])
    logprobs = _logprobs(
        logits, raw, rows, [number for number in asked if isinstance(results[number], int)], results, vocabulary
    )
    return [
        result if isinstance(result, EngineError) else Drawn(_drawn(result), logprobs.get(number))
        for number, result in enumerate(results)
    ]


def _alter(logits: NDArray[np.float32], rows: Sequence[Row], grammars: Grammars, results: Results) -> None:
    """Forbid and change logits in place: constraints, ends that come too early, penalties, hooks."""
    bound = [(number, constraint) for number, row in enumerate(rows) if (constraint := row.bound) is not None]
    if bound:
        members = [number for number, _ in bound]
        constraints = [constraint for _, constraint in bound]
        _guarded(lambda: grammars.mask([logits[number] for number in members], constraints), members, results)
    hooks: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        if row.ends and row.cannot_end:
            logits[number, list(row.ends)] = -np.inf
        if row.sampler.settings.penalizes:
            row.sampler.penalize(logits[number], row.context)
        if row.hook is not None:
            hooks.setdefault(id(row.hook), []).append(number)
    for members in hooks.values():
        hook = rows[members[0]].hook
        assert hook is not None
        given = [logits[number] for number in members], [rows[number].context for number in members]
        _guarded(lambda hook=hook, given=given: hook.alter(*given), members, results)


def _draw(logits: NDArray[np.float32], rows: Sequence[Row], members: list[int], results: Results) -> None:
    """Draw for rows that share their hook and the filters of their settings."""
    own, hook = [rows[number] for number in members], rows[members[0]].hook
    part = logits if len(members) == len(rows) else logits[members]
    candidates = candidates_of(part, own[0].sampler.settings)
    if hook is not None:

        def choose() -> None:
            for number, token in zip(members, hook.choose(candidates, [row.context for row in own]), strict=True):
                if token is not None and not 0 <= token < logits.shape[1]:
                    raise ValueError(f"the hook chose token {token} of {logits.shape[1]}")
                results[number] = None if token is None else int(token)

        _guarded(choose, members, results)
    left = [results[number] is None for number in members]
    if any(left):
        # A sequence's random numbers must not depend on what its neighbours' hooks do.
        uniforms = [row.sampler.uniform() if needed else 0.0 for row, needed in zip(own, left, strict=True)]
        for number, needed, token in zip(members, left, draw(candidates, uniforms), strict=True):
            if needed:
                results[number] = token


def _guarded(call: Callable[[], None], members: list[int], results: Results) -> None:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - hooks are foreign code
        _log.exception("a hook or constraint raised; its requests are ended")
        for member in members:
            results[member] = EngineError("ENGINE_FAILED", f"hook or constraint failed: {type(error).__name__}")


def _accepted(constraint: Constraint, result: int | EngineError | None) -> int | EngineError | None:
    if not isinstance(result, int):
        return result
    try:
        constraint.accept(result)
    except EngineError as error:
        return error
    return result


def _logprobs(
    logits: NDArray[np.float32],
    raw: dict[int, NDArray[np.float32]],
    rows: Sequence[Row],
    asked: list[int],
    results: Results,
    vocabulary: Vocabulary,
) -> dict[int, TokenLogprob]:
    if not asked:
        return {}
    whole = not raw and len(asked) == len(rows)
    part = logits if whole else np.stack([raw[number] if number in raw else logits[number] for number in asked])
    tops = [rows[number].context.request.sampling.top_logprobs for number in asked]
    found = token_logprobs(part, [_drawn(results[number]) for number in asked], tops, vocabulary)
    return dict(zip(asked, found, strict=True))


def _at(logits: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.float32]:
    return logits[np.arange(len(places)), places]


def _drawn(result: int | EngineError | None) -> int:
    if not isinstance(result, int):
        raise AssertionError  # noqa: TRY004 - cannot be
    return result

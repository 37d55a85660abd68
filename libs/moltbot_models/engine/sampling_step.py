"""Samples all rows of a step: hooks see the rows that share them together, one bad row ends alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.logprobs import token_logprob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from moltbot_models.engine.constraint import Constraint, Grammars
    from moltbot_models.engine.detokenize import Vocabulary
    from moltbot_models.engine.sampler import Candidates, Sampler, SamplerHook, SamplingContext
    from moltbot_models.generation import TokenLogprob

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One sequence that gets a token in this step."""

    logits: NDArray[np.float32]
    """Raw logits [vocabulary]; overwritten."""
    sampler: Sampler
    hook: SamplerHook | None
    context: SamplingContext
    constraint: Constraint | None = None
    banned: frozenset[int] = frozenset()
    """Tokens that may not come now."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, and its log-probability where the request asks for it."""

    token: int
    logprob: TokenLogprob | None


def sample_rows(rows: Sequence[Row], vocabulary: Vocabulary, grammars: Grammars) -> list[Drawn | EngineError]:
    """Return a token, or why there is none, for each row.

    What a constraint forbids is gone before penalties and hooks see the row; log-probabilities are the model's own, as
    if there were no constraint.
    """
    raw = [row.logits.copy() if row.context.request.sampling.logprobs else None for row in rows]
    results: list[int | EngineError | None] = [None] * len(rows)
    constrained = _constrain(rows, grammars, results)
    for row in rows:
        if row.banned:
            row.logits[list(row.banned)] = -np.inf
        row.sampler.penalize(row.logits, row.context.prompt_tokens, row.context.output_tokens)
    for hook, members in _by_hook(rows, range(len(rows))):

        def alter(hook: SamplerHook = hook, members: list[int] = members) -> None:
            hook.alter([rows[member].logits for member in members], [rows[member].context for member in members])

        _guarded(alter, members, results)
    _refuse_hopeless(rows, results)
    greedy = [n for n, row in enumerate(rows) if results[n] is None and row.sampler.settings.temperature == 0]
    for number in greedy:
        results[number] = int(rows[number].logits.argmax())
    candidates = {n: row.sampler.candidates(row.logits) for n, row in enumerate(rows) if results[n] is None}
    for hook, members in _by_hook(rows, candidates):

        def choose(hook: SamplerHook = hook, members: list[int] = members) -> None:
            _choose(hook, rows, members, candidates, results)

        _guarded(choose, members, results)
    for number, choice in candidates.items():
        if results[number] is None:
            results[number] = rows[number].sampler.draw(choice)
    for number in constrained:
        results[number] = _accepted(rows[number], results[number])
    return [_drawn(row, before, result, vocabulary) for row, before, result in zip(rows, raw, results, strict=True)]


def _choose(
    hook: SamplerHook,
    rows: Sequence[Row],
    members: list[int],
    candidates: dict[int, Candidates],
    results: list[int | EngineError | None],
) -> None:
    chosen = hook.choose([candidates[member] for member in members], [rows[member].context for member in members])
    for member, token in zip(members, chosen, strict=True):
        if token is not None and not 0 <= token < rows[member].logits.size:
            raise ValueError(f"the hook chose token {token} of {rows[member].logits.size}")
        results[member] = token


def _constrain(rows: Sequence[Row], grammars: Grammars, results: list[int | EngineError | None]) -> list[int]:
    """Forbid what constraints do not allow; return the rows that have one."""
    members = [number for number, row in enumerate(rows) if row.constraint is not None]
    if members:

        def forbid() -> None:
            constraints = [row.constraint for row in rows if row.constraint is not None]
            grammars.mask([rows[number].logits for number in members], constraints)

        _guarded(forbid, members, results)
    return members


def _accepted(row: Row, result: int | EngineError | None) -> int | EngineError | None:
    if row.constraint is None or not isinstance(result, int):
        return result
    try:
        row.constraint.accept(result)
    except EngineError as error:
        return error
    return result


def _by_hook(rows: Sequence[Row], numbers: Iterable[int]) -> list[tuple[SamplerHook, list[int]]]:
    groups: dict[int, tuple[SamplerHook, list[int]]] = {}
    for number in numbers:
        hook = rows[number].hook
        if hook is not None:
            groups.setdefault(id(hook), (hook, []))[1].append(number)
    return list(groups.values())


def _guarded(call: Callable[[], None], members: list[int], results: list[int | EngineError | None]) -> None:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - hooks are foreign code
        _log.exception("a hook or constraint raised; its requests are ended")
        for member in members:
            results[member] = EngineError("ENGINE_FAILED", f"hook or constraint failed: {type(error).__name__}")


def _refuse_hopeless(rows: Sequence[Row], results: list[int | EngineError | None]) -> None:
    for number, row in enumerate(rows):
        # Also true of NaN: a damaged checkpoint must not speak nonsense with a straight face.
        if results[number] is None and not np.isfinite(row.logits.max()):
            results[number] = EngineError("ENGINE_FAILED", "no token is left to draw: logits are not finite")


def _drawn(
    row: Row, raw: NDArray[np.float32] | None, result: int | EngineError | None, vocabulary: Vocabulary
) -> Drawn | EngineError:
    if isinstance(result, EngineError):
        return result
    if result is None:
        raise AssertionError
    logprob = None
    if raw is not None:
        logprob = token_logprob(raw, result, row.context.request.sampling.top_logprobs, vocabulary)
    return Drawn(result, logprob)

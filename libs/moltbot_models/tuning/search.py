"""Looks for options that make a model faster, one option at a time.

Coordinate descent: the options are few, mostly independent, and each trial costs seconds, so that one pass over them
and a second over what moved find what a grid would (Triton Model Analyzer's quick search climbs likewise). The machine
is noisy, so a candidate never stands beside a figure of earlier: it and the present best are measured in turns, and it
must win most turns and by more than they scatter.

Source: https://github.com/triton-inference-server/model_analyzer docs/config_search.md (quick search).
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from moltbot_models.encoder.processor import quickest_float
from moltbot_models.engine.config import CHUNK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from moltbot_models.engine.config import ComputePrecision

Goal = Literal["latency", "throughput"]
Options = dict[str, str]

TURNS = 3
_LEAST_GAIN = 0.03
_PASSES = 2


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate beside the best of then."""

    option: str
    value: str
    gain: float
    """Median ratio of scores minus 1; greater is better."""
    taken: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What the search came to."""

    options: Options
    trials: tuple[Trial, ...]
    complete: bool
    """Whether it ended before its time was over."""


def space(task: str, cores: int) -> Mapping[str, Sequence[str]]:
    """The values that are tried for each option of a task, those that matter most first."""
    threads = [str(count) for count in sorted({1, max(1, cores // 2), cores})]
    if task == "text-generation":
        return {
            "compute": ("f32", "bf16"),
            "weights": ("u8", "i8", "u4"),
            "step_tokens": ("128", "256", "512"),
            "chunk_tokens": ("56", "120", "184", "0"),
            "threads": threads,
            "kv": ("u8", "f32", "bf16"),
        }
    return {
        "precision": ("auto", "f32" if quickest_float() == "bf16" else "bf16"),
        "threads": threads,
        "batch_texts": ("4", "8", "16"),
        "bucket_tokens": ("8", "16", "32"),
        "queue_delay_us": ("0", "500", "2000"),
    }


async def search(
    options: Options,
    values: Mapping[str, Sequence[str]],
    compare: Callable[[Options, Options], Awaitable[Sequence[tuple[float, float]]]],
    allowed: Callable[[Options], Awaitable[str]],
    time_left: Callable[[], bool],
    tell: Callable[[Trial], None],
) -> Found:
    """Find better options.

    Args:
        options: Where to begin, with every option of `values`.
        values: Of `space`.
        compare: Scores (greater is better) of the first and the second options, in turns.
        allowed: Why options must not be tried, such as an accuracy gate; empty if they may.
        time_left: Whether another trial may begin.
        tell: Told each trial.
    """
    best, trials = dict(options), list[Trial]()
    for _ in range(_PASSES):
        moved = False
        for option, choices in values.items():
            for value in choices:
                if value == best[option]:
                    continue
                if not time_left():
                    return Found(best, tuple(trials), complete=False)
                candidate = _changed(best, option, value)
                refused = await allowed(candidate)
                if refused:
                    trial = Trial(option, value, 0.0, taken=False, note=refused)
                else:
                    gain, better = verdict(await compare(best, candidate))
                    trial = Trial(option, value, gain, taken=better)
                trials.append(trial)
                tell(trial)
                if trial.taken:
                    best, moved = candidate, True
        if not moved:
            break
    return Found(best, tuple(trials), complete=True)


def _changed(options: Options, option: str, value: str) -> dict[str, str]:
    """Options with another value, and what goes with it unless it was set: a chunk's size is the precision's."""
    changed = {**options, option: value}
    if option == "compute" and options.get("chunk_tokens") == str(_chunk_tokens(options)):
        changed["chunk_tokens"] = str(_chunk_tokens(changed))
    return changed


def _chunk_tokens(options: Options) -> int:
    return CHUNK_TOKENS[cast("ComputePrecision", options["compute"])]


def verdict(turns: Sequence[tuple[float, float]]) -> tuple[float, bool]:
    """The gain of the second over the first, and whether it is more than noise.

    It is if the median gain is at least 3 % and greater than half of how far the turns' gains lie apart, and all turns
    but one, at most, are won.
    """
    gains = [second / first - 1 if first > 0 else 0.0 for first, second in turns]
    middle = statistics.median(gains)
    won = sum(gain > 0 for gain in gains)
    apart = (max(gains) - min(gains)) / 2
    return middle, middle >= _LEAST_GAIN and middle > apart and won >= len(gains) - 1

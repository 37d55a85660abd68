"""Asks a model from many clients that never pause, and says what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from moltbot_mesh.errors import MoltbotError
from moltbot_models.generation import EmbeddingRequest, GenerationRequest, Sampling, ScoringRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moltbot_models.manifest import Task
    from moltbot_models.providers.base import Upstream

_MOST_FAILURES = 20
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Workload:
    """What each client asks, over and over."""

    task: Task
    model: str
    """The name at the upstream."""
    texts: tuple[str, ...]
    tokens_in: int = 32
    """About; prompts are cut to four characters a token. Encoders read whole texts."""
    tokens_out: int = 32


@dataclass(frozen=True, slots=True)
class Figures:
    """One level of concurrency. Times in milliseconds; 0 where there is no such thing."""

    clients: int
    answers: int
    failures: int
    units_per_s: float
    """Tokens of answers, or texts."""
    p50_ms: float
    """Of a whole answer."""
    p99_ms: float
    first_p50_ms: float
    """To the first token."""
    gap_p50_ms: float
    """Between two deliveries of a stream."""
    gap_p99_ms: float
    cpu_ms_per_unit: float
    rss_mib: int


@dataclass(slots=True)
class _Watch:
    took: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    units: int = 0
    failures: int = 0
    last_error: MoltbotError | None = None


async def measure(
    upstream: Upstream,
    work: Workload,
    clients: int,
    seconds: float,
    cpu_s: Callable[[], float],
    rss_mib: Callable[[], int],
) -> Figures:
    """Run one level of a closed loop: each client asks again as soon as it is answered.

    Args:
        upstream: The model.
        work: What is asked.
        clients: Tasks that ask at once.
        seconds: After so many no new request begins.
        cpu_s: CPU time so far of all that works for the model.
        rss_mib: Its memory.

    Raises:
        MoltbotError: Nothing but failures; the last of them.
    """
    watch = _Watch()
    cpu, began = cpu_s(), time.perf_counter()

    async def client(number: int) -> None:
        place = number
        while time.perf_counter() - began < seconds and watch.failures < _MOST_FAILURES:
            try:
                await _ask(upstream, work, place, watch)
            except MoltbotError as error:
                watch.failures += 1
                watch.last_error = error
            place += clients

    await asyncio.gather(*(client(number) for number in range(clients)))
    wall = time.perf_counter() - began
    if not watch.took and watch.last_error is not None:
        raise watch.last_error
    return Figures(
        clients=clients,
        answers=len(watch.took),
        failures=watch.failures,
        units_per_s=watch.units / wall,
        p50_ms=_percentile(watch.took, 50),
        p99_ms=_percentile(watch.took, 99),
        first_p50_ms=_percentile(watch.firsts, 50),
        gap_p50_ms=_percentile(watch.gaps, 50),
        gap_p99_ms=_percentile(watch.gaps, 99),
        cpu_ms_per_unit=1e3 * (cpu_s() - cpu) / max(1, watch.units),
        rss_mib=rss_mib(),
    )


async def _ask(upstream: Upstream, work: Workload, place: int, watch: _Watch) -> None:
    at = time.perf_counter()
    text = work.texts[place % len(work.texts)]
    if work.task == "embedding":
        await upstream.embed(EmbeddingRequest(work.model, (text,)))
        watch.units += 1
    elif work.task in {"rerank", "classification"}:
        query = work.texts[(place + 1) % len(work.texts)] if work.task == "rerank" else None
        await upstream.score(ScoringRequest(work.model, (text,), query))
        watch.units += 1
    else:
        await _generate(upstream, work, place, text, watch)
    watch.took.append(1e3 * (time.perf_counter() - at))


async def _generate(upstream: Upstream, work: Workload, place: int, text: str, watch: _Watch) -> None:
    size = work.tokens_in * _CHARACTERS_PER_TOKEN
    # The number at its beginning keeps prefix caches from helping.
    prompt = f"{place} " + (f"{text} " * (1 + size // (len(text) + 1)))[: max(1, size - 6)]
    sampling = Sampling(max_tokens=work.tokens_out, temperature=0.0, ignore_eos=True)
    at, before, deliveries, counted = time.perf_counter(), 0.0, 0, 0
    pieces = upstream.generate(GenerationRequest(work.model, prompt=prompt, sampling=sampling))
    async with contextlib.aclosing(pieces):
        async for deltas in pieces:
            now = time.perf_counter()
            if deliveries:
                watch.gaps.append(1e3 * (now - before))
            else:
                watch.firsts.append(1e3 * (now - at))
            before, deliveries = now, deliveries + 1
            if deltas and deltas[-1].usage is not None:
                counted = deltas[-1].usage.completion_tokens
    watch.units += counted or deliveries


def _percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share)) if values else 0.0

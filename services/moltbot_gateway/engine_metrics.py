"""What the models' engines count, beside the gateway's own metrics."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from moltbot_mesh.errors import MoltbotError
from moltbot_models.providers.base import BATCHES_OF, Measured

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import CollectorRegistry, Metric

    from moltbot_gateway.upstream_pool import UpstreamPool

_FRESH_S = 1.0
"""The page is public, and asking costs the engines something."""
_GAUGES = {
    "running": ("running", "Sequences in the engine's batch."),
    "waiting": ("waiting", "Requests that wait for room in the engine."),
    "blocks_total": ("cache_blocks", "Blocks of the KV cache."),
    "blocks_free": ("cache_blocks_free", "Blocks that hold nothing."),
    "blocks_cached": ("cache_blocks_reusable", "Unused blocks that a later prompt may find."),
    "load_seconds": ("load_seconds", "What loading took."),
}
_COUNTERS = {
    "steps": ("steps", "Steps of the engine."),
    "prompt_tokens": ("prompt_tokens", "Prompt tokens computed."),
    "completion_tokens": ("completion_tokens", "Tokens drawn."),
    "cached_tokens": ("cached_prompt_tokens", "Prompt tokens found in the prefix cache."),
    "preemptions": ("preemptions", "Sequences that had to make room."),
    "failures": ("failures", "Requests that ended with an error of the engine's."),
    "requests": ("inferences", "Requests, of an encoder texts, as Triton counts them."),
    "batches": ("batches", "Batches that Triton ran."),
    "queue_s": ("queue_seconds", "Time that requests waited in Triton, summed."),
    "compute_s": ("compute_seconds", "Time in Triton's backend, summed."),
}

_SIZES = (1, 2, 4, 8, 16, 32, 64)


class EngineMetrics:
    """A Prometheus collector over the last figures that `refresh` found.

    Args:
        pool: The upstreams.
        registry: Where the metrics are printed from.
    """

    def __init__(self, pool: UpstreamPool, registry: CollectorRegistry) -> None:
        self._pool = pool
        self._found: dict[str, Mapping[str, float]] = {}
        self._asking, self._again_s = asyncio.Lock(), 0.0
        registry.register(self)

    async def refresh(self) -> None:
        """Ask all engines at once, at most once a second; one that does not answer in time is left out."""
        async with self._asking:
            if time.monotonic() >= self._again_s:
                await self._ask()
                self._again_s = time.monotonic() + _FRESH_S

    async def _ask(self) -> None:
        asked = {
            model: upstream.provider
            for model, upstream in self._pool.opened.items()
            if isinstance(upstream.provider, Measured)
        }
        answers = await asyncio.gather(*(_figures(provider) for provider in asked.values()))
        self._found = {model: figures for model, figures in zip(asked, answers, strict=True) if figures}

    def collect(self) -> Iterator[Metric]:
        """The families; see prometheus_client's `Collector`."""
        for families, kind in ((_GAUGES, GaugeMetricFamily), (_COUNTERS, CounterMetricFamily)):
            for key, (name, about) in families.items():
                family = kind(f"moltbot_model_{name}", about, labels=["model"])
                for model, figures in self._found.items():
                    if key in figures:
                        family.add_metric([model], figures[key])
                if family.samples:
                    yield family
        batches = HistogramMetricFamily("moltbot_model_batch_texts", "Texts in a batch of Triton's.", labels=["model"])
        for model, figures in self._found.items():
            sizes = {int(key.removeprefix(BATCHES_OF)): n for key, n in figures.items() if key.startswith(BATCHES_OF)}
            if sizes:
                batches.add_metric([model], _buckets(sizes), sum(size * count for size, count in sizes.items()))
        if batches.samples:
            yield batches


def _buckets(sizes: Mapping[int, float]) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus counts."""
    return [
        *((f"{most:.1f}", sum(count for size, count in sizes.items() if size <= most)) for most in _SIZES),
        ("+Inf", sum(sizes.values())),
    ]


async def _figures(provider: Measured) -> Mapping[str, float]:
    try:
        return await provider.statistics()
    except MoltbotError:
        return {}

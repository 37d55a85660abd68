"""What engines count, as Prometheus reads it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest

from moltbot_gateway.engine_metrics import EngineMetrics

if TYPE_CHECKING:
    from collections.abc import Mapping


class Encoder:
    """An upstream in Triton that has run ten batches of texts."""

    async def statistics(self) -> Mapping[str, float]:
        counted = {"requests": 23, "batches": 10, "failures": 1, "queue_s": 0.5, "compute_s": 2.0}
        return counted | {"batches_of_1": 6, "batches_of_3": 3, "batches_of_8": 1}


async def test_an_encoder_shows_queue_failures_and_the_sizes_of_its_batches() -> None:
    pool: Any = SimpleNamespace(opened={"m": SimpleNamespace(provider=Encoder())})
    registry = CollectorRegistry()
    metrics = EngineMetrics(pool, registry)
    await metrics.refresh()
    lines = generate_latest(registry).decode().splitlines()
    for expected in (
        'moltbot_model_inferences_total{model="m"} 23.0',
        'moltbot_model_batches_total{model="m"} 10.0',
        'moltbot_model_failures_total{model="m"} 1.0',
        'moltbot_model_queue_seconds_total{model="m"} 0.5',
        'moltbot_model_compute_seconds_total{model="m"} 2.0',
        'moltbot_model_batch_texts_bucket{le="1.0",model="m"} 6.0',
        'moltbot_model_batch_texts_bucket{le="2.0",model="m"} 6.0',
        'moltbot_model_batch_texts_bucket{le="4.0",model="m"} 9.0',
        'moltbot_model_batch_texts_bucket{le="+Inf",model="m"} 10.0',
        'moltbot_model_batch_texts_sum{model="m"} 23.0',
    ):
        assert expected in lines, "\n".join(lines)

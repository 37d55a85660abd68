"""The producers of one process: made as the configuration says, with what they count for `/metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from moltbot_mesh.audit.producer import AuditProducer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client import CollectorRegistry, Metric

    from moltbot_mesh.audit.sender import AppendsEvents
    from moltbot_mesh.audit.settings import RecordingSettings

_COUNTERS = {
    "emitted": ("events", "Audit events that were emitted."),
    "acknowledged": ("acknowledged", "Audit events that the log has."),
    "dropped": ("dropped", "Audit events for which there was no room."),
    "rejected": ("rejected", "Audit events that the log does not take."),
}
_GAUGES = {
    "queued": ("queued", "Audit events in memory."),
    "spill_bytes": ("spill_bytes", "Audit events on disk, on their way to the log."),
    "spill_limit_bytes": ("spill_limit_bytes", "Room for them."),
    "behind_s": ("behind_seconds", "Time that audit events have waited without progress."),
    "failing": ("spill_failing", "1 while they cannot be spilled."),
}


class Producers:
    """A Prometheus collector over the producers that it made.

    Args:
        settings: Of all.
        instance: Of the process.
        registry: Where the metrics are printed from.
    """

    def __init__(self, settings: RecordingSettings, instance: str, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._instance = instance
        self._made: dict[str, AuditProducer] = {}
        registry.register(self)

    def make(self, stub: AppendsEvents, directory: Path, service: str) -> AuditProducer:
        """A producer, which the caller runs.

        Args:
            stub: Of the audit service.
            directory: For its spill.
            service: Whose events.
        """
        producer = AuditProducer(
            stub,
            directory,
            service,
            self._instance,
            queue_events=self._settings.queue_events,
            spill_bytes=self._settings.spill_mib << 20,
            on_full=self._settings.on_full,
        )
        self._made[f"{service}/{directory.name}"] = producer
        return producer

    def collect(self) -> Iterator[Metric]:
        """The families; see prometheus_client's `Collector`."""
        stats = {name: producer.stats for name, producer in self._made.items()}
        for families, kind in ((_COUNTERS, CounterMetricFamily), (_GAUGES, GaugeMetricFamily)):
            for key, (name, about) in families.items():
                family = kind(f"moltbot_audit_{name}", about, labels=["producer"])
                for producer, found in stats.items():
                    family.add_metric([producer], getattr(found, key))
                yield family

"""Metrics, traces and logs of one service, passed in and never global.

Spans are made for sampled traces only: an unsampled request costs one comparison. Metrics are Prometheus counters and
histograms with their label children bound once.

Source: OpenTelemetry semantic conventions for RPC and GenAI.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog
from opentelemetry import trace as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from moltbot_mesh.settings import Section

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from opentelemetry.context import Context

    from moltbot_mesh.call import TraceContext

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class TelemetrySettings(Section):
    """Where traces go and how many."""

    otlp_endpoint: str = ""
    """OTLP/gRPC endpoint (`http://127.0.0.1:4317`); empty means that no span leaves the process."""
    otlp_http_endpoint: str = ""
    """Its OTLP/HTTP endpoint (`http://127.0.0.1:4318`), the one that Triton speaks; empty: Triton makes no spans."""
    sample_ratio: float = 0.01
    """Share of the traces that begin here and are recorded, 0 to 1. A caller's own decision is kept."""

    @property
    def traces_url(self) -> str:
        """Where spans go by OTLP/HTTP; empty: nowhere."""
        return f"{self.otlp_http_endpoint.rstrip('/')}/v1/traces" if self.otlp_http_endpoint else ""

    @property
    def envoy_target(self) -> str:
        """`host:port` of the collector for Envoy, which speaks to it without TLS; empty if it cannot."""
        url = urlsplit(self.otlp_endpoint)
        return f"{url.hostname}:{url.port or 4317}" if url.scheme == "http" and url.hostname else ""


class Metrics:
    """The metrics of all services of one process.

    Args:
        registry: Where they stand; what `/metrics` prints.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.rpc_seconds = Histogram(
            "moltbot_rpc_seconds",
            "Time to serve a call.",
            ("service", "method", "code"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.requests = Counter(
            "moltbot_requests_total",
            "Requests of clients by outcome.",
            ("tenant", "route", "outcome"),
            registry=self.registry,
        )
        self.tokens = Counter(
            "moltbot_tokens_total", "Tokens by direction.", ("tenant", "model", "direction"), registry=self.registry
        )
        self.first_token_seconds = Histogram(
            "moltbot_first_token_seconds",
            "Time from the request to the first token.",
            ("model",),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.upstream_failures = Counter(
            "moltbot_upstream_failures_total", "Failed calls to a model.", ("model", "reason"), registry=self.registry
        )
        self.queued = Gauge("moltbot_admission_queued", "Requests waiting for admission.", registry=self.registry)
        self.in_flight = Gauge("moltbot_requests_in_flight", "Requests being answered.", registry=self.registry)
        self.audit_sink_lag = Gauge(
            "moltbot_audit_sink_lag_records",
            "Records of the audit log that a copy does not have yet.",
            ("sink",),
            registry=self.registry,
        )


class Telemetry:
    """What one service uses to tell how it does.

    Args:
        service: The service's name, `service.name` of its spans.
        metrics: Shared by the services of the process.
        settings: Where traces go.
    """

    def __init__(self, service: str, metrics: Metrics, settings: TelemetrySettings, instance: str = "") -> None:
        self.service = service
        self.metrics = metrics
        self._ratio = settings.sample_ratio
        self._provider: TracerProvider | None = None
        self._tracer: otel.Tracer | None = None
        self._ids = _Ids()
        if settings.otlp_endpoint:
            # Imported here: the exporter costs 0.2 s and most installations on one node have none.
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

            resource = Resource.create({"service.name": f"moltbot-{service}", "service.instance.id": instance})
            self._provider = TracerProvider(resource=resource, id_generator=self._ids)
            exporter = OTLPSpanExporter(settings.otlp_endpoint, insecure=settings.otlp_endpoint.startswith("http://"))
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
            self._tracer = self._provider.get_tracer("moltbot")

    def sample(self) -> bool:
        """Whether a trace that begins here is to be recorded."""
        return self._tracer is not None and random.random() < self._ratio  # noqa: S311 - a share, not a secret

    @contextlib.contextmanager
    def span(self, name: str, trace: TraceContext, attributes: Mapping[str, Any] | None = None) -> Generator[otel.Span]:
        """A span within `trace`; a no-op when the trace is not sampled."""
        if self._tracer is None or not trace.sampled:
            yield otel.INVALID_SPAN
            return
        with self._tracer.start_as_current_span(name, _within(trace), otel.SpanKind.SERVER, attributes) as span:
            yield span

    def record_span(
        self,
        name: str,
        trace: TraceContext,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, Any],
        *,
        error: str = "",
        client: bool = False,
        span_id: bytes = b"",
    ) -> None:
        """Record a span of something that has ended, within `trace`; nothing happens when that is not sampled.

        Args:
            name: Of the operation.
            trace: What it was part of.
            start_ns: Since the epoch.
            end_ns: Since the epoch.
            attributes: As OpenTelemetry's conventions name them.
            error: Its `error.type`; empty if it went well.
            client: Whether it was a call to another system.
            span_id: Under which that system was told of it; a new one if empty.
        """
        if self._tracer is None or not trace.sampled:
            return
        kind = otel.SpanKind.CLIENT if client else otel.SpanKind.INTERNAL
        given = dict(attributes) | ({"error.type": error} if error else {})
        self._ids.given = int.from_bytes(span_id)
        span = self._tracer.start_span(name, _within(trace), kind, given, start_time=start_ns)
        if error:
            span.set_status(otel.StatusCode.ERROR, error)
        span.end(end_ns)

    def close(self) -> None:
        """Send what is left. Bounded by the exporter's own timeout."""
        if self._provider is not None:
            self._provider.shutdown()


class _Ids(RandomIdGenerator):
    """Random ids, but for a span whose id was told to somebody before it was made."""

    given = 0

    def generate_span_id(self) -> int:
        """The id that was told, once; else a random one."""
        taken, self.given = self.given, 0
        return taken or super().generate_span_id()


def _within(trace: TraceContext) -> Context:
    parent = otel.SpanContext(int.from_bytes(trace.trace_id), int.from_bytes(trace.span_id), True, otel.TraceFlags(1))
    return otel.set_span_in_context(otel.NonRecordingSpan(parent))


def configure_logging(level: str = "info", *, json: bool | None = None) -> None:
    """Send structlog events to stderr: JSON lines, or readable ones on a terminal. Called once, by the command."""
    as_json = not sys.stderr.isatty() if json is None else json
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(name)s: %(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


class Stopwatch:
    """Time since it was made."""

    __slots__ = ("_start_ns",)

    def __init__(self) -> None:
        self._start_ns = time.perf_counter_ns()

    def us(self) -> int:
        """Microseconds."""
        return (time.perf_counter_ns() - self._start_ns) // 1000

"""The gateway's wiring."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, cast

from moltbot.audit.v1 import privacy_pb2_grpc
from moltbot.gateway.v1 import gateway_pb2_grpc, openai_pb2_grpc
from moltbot.third_party.envoy.v3 import accesslog_pb2_grpc

from moltbot_gateway.callers import Callers
from moltbot_gateway.catalogue import Catalogue
from moltbot_gateway.chat import Answerer
from moltbot_gateway.engine_metrics import EngineMetrics
from moltbot_gateway.failover import Failover
from moltbot_gateway.fair_queue import FairQueue
from moltbot_gateway.intake import Intake
from moltbot_gateway.openai_servicer import OpenAIServicer
from moltbot_gateway.operations_servicer import OperationsServicer
from moltbot_gateway.outputs import Outputs
from moltbot_gateway.peers import Peers
from moltbot_gateway.quota import Buckets, ProcessBuckets, Quotas
from moltbot_gateway.recorder import Recorder
from moltbot_gateway.refusals_servicer import RefusalsServicer
from moltbot_gateway.servicer import GatewayServicer
from moltbot_gateway.settings import GatewaySettings
from moltbot_gateway.upstream_pool import UpstreamPool
from moltbot_mesh.audit.bodies import BodyKeeper
from moltbot_mesh.http_routes import SERVED
from moltbot_mesh.http_server import HttpRoutes
from moltbot_mesh.module import Access, Module, Registration, Runtime, Service
from moltbot_mesh.threads import Threads
from moltbot_models.providers.base import UpstreamContext
from moltbot_models.providers.engines import EngineHost
from moltbot_models.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_mesh.audit.bodies import KeepsBodies

_OPTIONAL = ("audit", "context", "tool", "watermark")
"""Without these, plain requests are answered: what is to be recorded waits; sessions, tools and marks fail."""
_INTAKE_THREADS, _INTAKE_WAITING = 2, 256
"""For large requests; more wait for one of these threads or are refused."""
_OPENAI_METHODS = (
    "ChatCompletions",
    "Completions",
    "Embeddings",
    "Rerank",
    "Classify",
    "ListModels",
    "RetrieveModel",
    "Refuse",
)
_GATEWAY_METHODS = (
    "Chat",
    "StreamChat",
    "Complete",
    "StreamComplete",
    "Embed",
    "Rerank",
    "Classify",
    "ListModels",
)
_OPERATIONS_METHODS = ("Healthz", "Readyz", "Metrics")


@contextlib.asynccontextmanager
async def open_gateway(runtime: Runtime) -> AsyncGenerator[Service]:
    """Follow the routing table, open the upstreams, serve."""
    settings = runtime.settings(GatewaySettings)
    metrics = runtime.telemetry.metrics
    async with contextlib.AsyncExitStack() as stack:
        peers = Peers(runtime.channel)
        producer = await stack.enter_async_context(runtime.audit_producer().running())
        privacy = cast("KeepsBodies", privacy_pb2_grpc.PrivacyServiceStub(runtime.channel("audit")))
        bodies = BodyKeeper(privacy, runtime.data_dir / "audit-bodies")
        await stack.enter_async_context(bodies.running())
        outputs = Outputs(peers.watermark)
        await stack.enter_async_context(outputs.registering())
        recorder = Recorder(
            producer,
            outputs,
            runtime.telemetry,
            runtime.derive_key("commitment"),
            runtime.module,
            runtime.instance,
            bodies,
        )
        engines = EngineHost(runtime.settings(EngineSettings).engine_config())
        stack.push_async_callback(engines.aclose)
        context = UpstreamContext(runtime.data_dir / "cache", os.environ, engines)
        pool = UpstreamPool(peers.router, context)
        await stack.enter_async_context(pool.following())
        queue = FairQueue(settings.max_in_flight, settings.max_queued, settings.max_queue_s)
        metrics.queued.set_function(lambda: queue.waiting)
        buckets = await _buckets(settings, stack)
        answerer = Answerer(settings, Failover(settings, pool), peers, queue, Quotas(buckets))
        callers = Callers(runtime.api_keys, recorder, metrics, producer.admit)
        catalogue = Catalogue(peers.router, int(time.time()))

        def missing() -> list[str]:
            known = (pool.missing, [producer.refuses], [runtime.absent("router")])
            return [one for found in known for one in found if one]

        def degraded() -> list[str]:
            known = [*(runtime.absent(service) for service in _OPTIONAL), producer.alarm]
            return [found for found in known if found]

        public = Access.PUBLIC
        threads = await stack.enter_async_context(Threads("gateway-intake", _INTAKE_THREADS, _INTAKE_WAITING))
        intake = Intake(recorder, threads)
        openai = OpenAIServicer(settings, callers, intake, answerer, catalogue)
        yield Service(
            (
                Registration(
                    openai_pb2_grpc.add_OpenAIServiceServicer_to_server, openai, dict.fromkeys(_OPENAI_METHODS, public)
                ),
                Registration(
                    openai_pb2_grpc.add_OperationsServiceServicer_to_server,
                    OperationsServicer(missing, degraded, metrics, EngineMetrics(pool, metrics.registry)),
                    dict.fromkeys(_OPERATIONS_METHODS, public),
                ),
                Registration(
                    gateway_pb2_grpc.add_GatewayServiceServicer_to_server,
                    GatewayServicer(settings, callers, intake, answerer, catalogue),
                    dict.fromkeys(_GATEWAY_METHODS, public),
                ),
                Registration(
                    accesslog_pb2_grpc.add_AccessLogServiceServicer_to_server,
                    RefusalsServicer(recorder),
                    {"StreamAccessLogs": public},
                ),
            ),
            missing,
            HttpRoutes(SERVED, settings.body_limit_bytes),
        )


async def _buckets(settings: GatewaySettings, stack: contextlib.AsyncExitStack) -> Buckets:
    if settings.quota_store == "process":
        return ProcessBuckets()
    # Imported here: one node needs no Redis.
    from moltbot_gateway.adapters.redis_buckets import RedisBuckets  # noqa: PLC0415

    buckets = RedisBuckets(settings.redis_url, fail_closed=settings.quota_fail_closed)
    stack.push_async_callback(buckets.aclose)
    return buckets


MODULE = Module("gateway", ("audit", "watermark", "router", "context", "tool"), open_gateway)

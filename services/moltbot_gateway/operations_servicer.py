"""OperationsService: health and metrics over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.api.httpbody_pb2 import HttpBody
from moltbot.gateway.v1 import openai_pb2_grpc
from prometheus_client import generate_latest

from moltbot_gateway.openai_response import json_body
from moltbot_mesh.headers import MESH_STATUS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moltbot_gateway.engine_metrics import EngineMetrics
    from moltbot_mesh.telemetry import Metrics

_JSON = "application/json"


class OperationsServicer(openai_pb2_grpc.OperationsServiceServicer):
    """See `protos/moltbot/gateway/v1/openai.proto`.

    Args:
        missing: What keeps the gateway from answering requests; empty when ready.
        degraded: Which services are away that some requests need; empty when none is.
        metrics: Of the process.
        engines: Brings the engines' figures up to date.
    """

    def __init__(
        self,
        missing: Callable[[], Sequence[str]],
        degraded: Callable[[], Sequence[str]],
        metrics: Metrics,
        engines: EngineMetrics,
    ) -> None:
        self._missing = missing
        self._degraded = degraded
        self._metrics = metrics
        self._engines = engines

    async def Healthz(self, request: HttpBody, context: Any) -> HttpBody:  # noqa: ARG002, N802 - gRPC's shape
        """Say that the process runs."""
        return HttpBody(content_type=_JSON, data=b'{"status":"ok"}')

    async def Readyz(self, request: HttpBody, context: Any) -> HttpBody:  # noqa: ARG002, N802 - gRPC's shape
        """Say whether requests can be answered."""
        missing, degraded = list(self._missing()), list(self._degraded())
        if not missing:
            found: dict[str, object] = {"status": "ready"}
            return HttpBody(content_type=_JSON, data=json_body(found | ({"degraded": degraded} if degraded else {})))
        await context.send_initial_metadata(((MESH_STATUS, "503"),))
        told = {"status": "not ready", "missing": [*missing, *degraded]}
        return HttpBody(content_type=_JSON, data=json_body(told))

    async def Metrics(self, request: HttpBody, context: Any) -> HttpBody:  # noqa: ARG002, N802 - gRPC's shape
        """Print the metrics."""
        await self._engines.refresh()
        text = generate_latest(self._metrics.registry)
        return HttpBody(content_type="text/plain; version=0.0.4; charset=utf-8", data=text)

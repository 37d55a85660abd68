"""RouterService: wire to core and back."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp
from moltbot.router.v1 import router_pb2, router_pb2_grpc

from moltbot_mesh.call import current_call
from moltbot_mesh.paging import page_of
from moltbot_models.manifest_wire import TASKS, to_proto
from moltbot_router.health import Breaker
from moltbot_router.policy import Wanted
from moltbot_router.rules import Strategy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moltbot.model.v1 import manifest_pb2

    from moltbot_models.manifest import Manifest
    from moltbot_router.policy import Policy
    from moltbot_router.source import TableSource

_STRATEGIES = {
    None: router_pb2.STRATEGY_UNSPECIFIED,
    Strategy.PRIORITY: router_pb2.STRATEGY_PRIORITY,
    Strategy.ROUND_ROBIN: router_pb2.STRATEGY_ROUND_ROBIN,
    Strategy.WEIGHTED: router_pb2.STRATEGY_WEIGHTED,
    Strategy.LEAST_BUSY: router_pb2.STRATEGY_LEAST_BUSY,
}
_BREAKERS = {
    Breaker.CLOSED: router_pb2.BREAKER_STATE_CLOSED,
    Breaker.OPEN: router_pb2.BREAKER_STATE_OPEN,
    Breaker.HALF_OPEN: router_pb2.BREAKER_STATE_HALF_OPEN,
}
_OK = {router_pb2.OUTCOME_OK: True, router_pb2.OUTCOME_FAILED: False, router_pb2.OUTCOME_NEUTRAL: None}


class RouterServicer(router_pb2_grpc.RouterServiceServicer):
    """See `protos/moltbot/router/v1/router.proto`."""

    def __init__(self, source: TableSource, policy: Policy) -> None:
        self._source = source
        self._policy = policy

    async def Route(self, request: router_pb2.RouteRequest, context: Any) -> router_pb2.RouteResponse:  # noqa: ARG002, N802
        """Choose candidates."""
        table = self._source.table
        wanted = Wanted(
            request.tenant,
            TASKS.get(request.task, ""),
            request.model,
            request.task_type,
            request.prompt_bytes,
            request.has_tools,
            request.excerpt,
            tuple(request.modalities),
        )
        decision = self._policy.decide(table, wanted)
        version = table.version
        candidates = [router_pb2.Candidate(model=model, table_version=version) for model in decision.models]
        return router_pb2.RouteResponse(candidates=candidates, task_type=decision.task_type, rule=decision.rule)

    async def ReportOutcomes(  # noqa: N802
        self,
        request_iterator: AsyncIterator[router_pb2.ReportOutcomesRequest],
        context: Any,  # noqa: ARG002
    ) -> router_pb2.ReportOutcomesResponse:
        """Take outcomes; calls that a lost reporter had in flight are released."""
        health = self._policy.health
        in_flight: Counter[str] = Counter()
        accepted = 0
        try:
            async for request in request_iterator:
                for outcome in request.outcomes:
                    accepted += 1
                    if outcome.outcome == router_pb2.OUTCOME_STARTED:
                        in_flight[outcome.model] += 1
                        health.started(outcome.model)
                    elif outcome.outcome in _OK:
                        in_flight[outcome.model] -= 1
                        ok = _OK[outcome.outcome]
                        health.ended(outcome.model, ok=ok, first_token_us=outcome.first_token_us)
        finally:
            for model, calls in in_flight.items():
                if calls > 0:
                    health.released(model, calls)
        return router_pb2.ReportOutcomesResponse(accepted=accepted)

    async def WatchTable(  # noqa: N802
        self,
        request: router_pb2.WatchTableRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[router_pb2.WatchTableResponse]:
        """Send the table and its later versions."""
        call = current_call()
        with_auth = call is not None and call.principal.kind == "service" and call.principal.subject == "gateway"
        async for table in self._source.versions(request.known_version):
            yield router_pb2.WatchTableResponse(
                version=table.version,
                models=[_shown(manifest, with_auth=with_auth) for manifest in table.models.values()],
                rules=[
                    router_pb2.Rule(
                        task_type=rule.task_type,
                        priority_models=rule.priority_models,
                        fallback_strategy=_STRATEGIES[rule.fallback_strategy],
                        strategy=_STRATEGIES[rule.strategy],
                    )
                    for rule in table.rules.values()
                ],
            )

    async def ListModels(  # noqa: N802
        self,
        request: router_pb2.ListModelsRequest,
        context: Any,  # noqa: ARG002
    ) -> router_pb2.ListModelsResponse:
        """List models with their health."""
        manifests = sorted(self._source.table.models.values(), key=lambda manifest: manifest.id)
        if request.tenant:
            manifests = [m for m in manifests if not m.tenants or request.tenant in m.tenants]
        page, next_token = page_of(manifests, request.page_size, request.page_token)
        return router_pb2.ListModelsResponse(models=[self._status(m) for m in page], next_page_token=next_token)

    def _status(self, manifest: Manifest) -> router_pb2.ModelStatus:
        health = self._policy.health
        status = router_pb2.ModelStatus(
            manifest=_shown(manifest, with_auth=False),
            breaker=_BREAKERS[health.breaker(manifest.id)],
            in_flight=health.in_flight(manifest.id),
            first_token_us=health.first_token_us(manifest.id),
        )
        opened_s = health.last_opened_s(manifest.id)
        if opened_s:
            status.last_opened.CopyFrom(Timestamp(seconds=int(opened_s)))
        return status


def _shown(manifest: Manifest, *, with_auth: bool) -> manifest_pb2.Manifest:
    proto = to_proto(manifest)
    if not with_auth:
        proto.ClearField("auth")
        proto.ClearField("tls")
    return proto

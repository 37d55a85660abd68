"""The upstreams of the models in the routing table, kept current by the router's watch; and how their calls go."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import structlog
from moltbot.router.v1 import router_pb2

from moltbot_mesh.errors import Internal, MoltbotError, Unavailable
from moltbot_models.manifest_wire import from_proto
from moltbot_models.providers import open_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from moltbot.router.v1 import router_pb2_grpc

    from moltbot_models.manifest import Manifest
    from moltbot_models.providers.base import Upstream, UpstreamContext

log = structlog.get_logger("moltbot.gateway")

_RECONNECT_S = 0.5
_REPORT_INTERVAL_S = 0.02
_REPORTS_WAITING = 65_536
_REPORT_OUTCOMES = 4096


@dataclass(slots=True, eq=False)
class OpenUpstream:
    """A model and the protocol that reaches it."""

    manifest: Manifest
    provider: Upstream
    name: str
    """What the model is called at the upstream."""
    calls: int = 0
    """Under way; one that has left the table is closed after its last."""


class UpstreamPool:
    """Opens, replaces and closes upstreams as the routing table changes.

    Args:
        router: Sends the table and takes the outcomes.
        context: What providers are opened with.
    """

    def __init__(self, router: router_pb2_grpc.RouterServiceAsyncStub, context: UpstreamContext) -> None:
        self._router = router
        self._context = context
        self._open: dict[str, OpenUpstream] = {}
        self._failed: dict[str, MoltbotError] = {}
        self._version = 0
        self._outcomes: deque[router_pb2.CallOutcome] = deque(maxlen=_REPORTS_WAITING)
        self._reported = asyncio.Event()
        self._retired: list[OpenUpstream] = []
        """Left the table; some of their calls may still be under way."""
        self._may_close = asyncio.Event()

    def get(self, model: str) -> OpenUpstream:
        """The upstream of a model.

        Raises:
            Unavailable: The table does not have it any more, or it could not be opened.
        """
        found = self._open.get(model)
        if found is None:
            error = self._failed.get(model)
            why = error.message if error else "it has just left the routing table"
            raise Unavailable(f"{model}: {why}", reason="UPSTREAM_UNAVAILABLE")
        return found

    @property
    def opened(self) -> Mapping[str, OpenUpstream]:
        """The upstreams in the table, by model."""
        return self._open

    @property
    def manifests(self) -> Sequence[Manifest]:
        """The models in the table."""
        return [upstream.manifest for upstream in self._open.values()]

    @property
    def missing(self) -> Sequence[str]:
        """What keeps models from being used."""
        if not self._version:
            return ("no routing table yet",)
        return tuple(f"{model}: {error.message}" for model, error in self._failed.items())

    def started(self, model: str) -> None:
        """A call began."""
        self._report(router_pb2.CallOutcome(model=model, outcome=router_pb2.OUTCOME_STARTED))

    def ended(self, model: str, *, ok: bool | None, first_token_us: int, duration_us: int) -> None:
        """A call ended: well, badly, or (`None`) in a way that says nothing about the model."""
        outcome = {True: router_pb2.OUTCOME_OK, False: router_pb2.OUTCOME_FAILED, None: router_pb2.OUTCOME_NEUTRAL}[ok]
        self._report(
            router_pb2.CallOutcome(model=model, outcome=outcome, first_token_us=first_token_us, duration_us=duration_us)
        )
        if self._retired:
            self._may_close.set()

    def _report(self, outcome: router_pb2.CallOutcome) -> None:
        self._outcomes.append(outcome)
        self._reported.set()

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncGenerator[None]:
        """Follow the router while the context is open; the first table is in place when it opens."""
        first = asyncio.Event()
        tasks = [
            asyncio.create_task(self._follow(first), name="routing-table"),
            asyncio.create_task(self._send_outcomes(), name="outcomes"),
            asyncio.create_task(self._close_retired(), name="retired-upstreams"),
        ]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    await first.wait()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for upstream in (*self._open.values(), *self._retired):
                await _close(upstream)

    async def _follow(self, first: asyncio.Event) -> None:
        while True:
            try:
                # Whole each time: another router may answer, whose versions are not those of the former one.
                async for table in self._router.WatchTable(router_pb2.WatchTableRequest()):
                    await self._take(table)
                    first.set()
            except MoltbotError as error:
                log.warning("routing table lost; the last one stays in use", error=error.message)
            await asyncio.sleep(_RECONNECT_S)

    async def _take(self, table: router_pb2.WatchTableResponse) -> None:
        before, self._open, self._failed = self._open, {}, {}
        for proto in table.models:
            manifest = from_proto(proto)
            known = before.get(manifest.id)
            if known is not None and known.manifest == manifest:
                self._open[manifest.id] = before.pop(manifest.id)
                continue
            try:
                provider = open_upstream(manifest, self._context)
            except MoltbotError as error:
                log.error("model cannot be used", model=manifest.id, error=error.message)
                self._failed[manifest.id] = error
                continue
            except Exception:  # providers are plug-ins: one with a defect costs its own model alone
                log.exception("model cannot be used: its provider failed", model=manifest.id)
                self._failed[manifest.id] = Internal(f"the provider {manifest.provider!r} failed; the log has the rest")
                continue
            name = manifest.upstream_model or manifest.id
            self._open[manifest.id] = OpenUpstream(manifest, provider, name)
        self._version = table.version
        log.info("routing table", version=table.version, models=len(self._open))
        self._retired.extend(before.values())
        self._may_close.set()

    async def _close_retired(self) -> None:
        """Close what has left the table, each after its last call: answers under way go on to their end."""
        while True:
            await self._may_close.wait()
            self._may_close.clear()
            for upstream in [one for one in self._retired if not one.calls]:
                await _close(upstream)
                self._retired.remove(upstream)

    async def _send_outcomes(self) -> None:
        while True:
            call = self._router.ReportOutcomes()
            try:
                while True:
                    await self._reported.wait()
                    self._reported.clear()
                    batch = list(islice(self._outcomes, _REPORT_OUTCOMES))
                    if batch:
                        await call.write(router_pb2.ReportOutcomesRequest(outcomes=batch))
                    for _ in batch:
                        self._outcomes.popleft()
                    if self._outcomes:
                        self._reported.set()
                    await asyncio.sleep(_REPORT_INTERVAL_S)
            except (MoltbotError, asyncio.InvalidStateError) as error:
                log.warning("outcomes not taken by the router; trying again", error=str(error))
                self._reported.set()
                await asyncio.sleep(_RECONNECT_S)
            finally:
                call.cancel()


async def _close(upstream: OpenUpstream) -> None:
    try:
        await upstream.provider.aclose()
    except Exception:  # as above: the others must be closed too
        log.exception("upstream not closed", model=upstream.manifest.id)

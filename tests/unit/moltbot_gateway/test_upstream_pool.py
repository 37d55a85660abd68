"""The routing table changes while requests are answered."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from moltbot.router.v1 import router_pb2

from moltbot_gateway import upstream_pool
from moltbot_gateway.failover import Failover
from moltbot_gateway.settings import GatewaySettings
from moltbot_gateway.upstream_pool import UpstreamPool
from moltbot_mesh.errors import InvalidArgument, Unavailable
from moltbot_models.generation import Delta, GenerationRequest
from moltbot_models.manifest import Manifest
from moltbot_models.manifest_wire import to_proto


class Router:
    """The router's stub: sends the tables it is given, takes outcomes."""

    def __init__(self) -> None:
        self.tables: asyncio.Queue[router_pb2.WatchTableResponse | Exception] = asyncio.Queue()
        self.known: list[int] = []
        self.outcomes: list[router_pb2.CallOutcome] = []
        self.failures: list[Exception] = []

    def send(self, version: int, *models: Manifest) -> None:
        table = router_pb2.WatchTableResponse(version=version, models=[to_proto(model) for model in models])
        self.tables.put_nowait(table)

    async def WatchTable(self, request):  # noqa: N802
        self.known.append(request.known_version)
        while True:
            table = await self.tables.get()
            if isinstance(table, Exception):
                raise table
            yield table

    def ReportOutcomes(self):  # noqa: N802
        return self

    async def write(self, request):
        if self.failures:
            raise self.failures.pop()
        self.outcomes.extend(request.outcomes)

    def cancel(self):
        return True


class Provider:
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def generate(self, request, *, stream=True):
        yield (Delta("one"),)
        await asyncio.sleep(0.05)
        if self.closed.is_set():
            raise Unavailable("the upstream was closed")
        yield (Delta("two", finish_reason="stop"),)

    async def aclose(self):
        self.closed.set()


@pytest.fixture
def opened(monkeypatch):
    """The providers that were opened, by the endpoint of their manifests."""
    found: dict[str, Provider] = {}

    def open_upstream(manifest, _context):
        if manifest.endpoint == "http://refused":
            raise InvalidArgument("no such thing")
        if manifest.endpoint == "http://broken":
            raise RuntimeError("a defect of a plug-in")
        return found.setdefault(manifest.endpoint, Provider())

    monkeypatch.setattr(upstream_pool, "open_upstream", open_upstream)
    monkeypatch.setattr(upstream_pool, "_RECONNECT_S", 0.01)
    return found


def model(endpoint: str, name: str = "a") -> Manifest:
    return Manifest(name, "text-generation", "openai", endpoint=endpoint)


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_answer_under_way_outlives_the_change_of_its_model(opened, exchange):
    router = Router()
    router.send(1, model("http://old"))
    pool = UpstreamPool(router, None)
    async with pool.following():
        exchange.deadline_s = asyncio.get_running_loop().time() + 5
        answer = Failover(GatewaySettings(), pool).generate(exchange, ["a"], GenerationRequest("", ()), stream=True)
        async with contextlib.aclosing(answer):
            text = [(await anext(answer))[0].text]
            router.send(2, model("http://new"))
            await until(lambda: "http://new" in opened)
            text += [delta.text async for deltas in answer for delta in deltas]
        assert text == ["one", "two"]
        await asyncio.wait_for(opened["http://old"].closed.wait(), 1)
        assert not opened["http://new"].closed.is_set()


async def test_an_idle_upstream_that_left_is_closed_at_once(opened):
    router = Router()
    router.send(1, model("http://old"))
    pool = UpstreamPool(router, None)
    async with pool.following():
        router.send(2)
        await asyncio.wait_for(opened["http://old"].closed.wait(), 1)


async def test_all_are_closed_at_the_end_also_those_in_use(opened):
    router = Router()
    router.send(1, model("http://old"), model("http://idle", "b"))
    pool = UpstreamPool(router, None)
    async with pool.following():
        pool.get("a").calls += 1
        router.send(2, model("http://new"))
        await until(lambda: "http://new" in opened)
    assert all(provider.closed.is_set() for provider in opened.values())


async def test_a_plug_in_with_a_defect_costs_its_own_model_alone(opened):
    router = Router()
    router.send(1, model("http://broken"), model("http://refused", "b"), model("http://good", "c"))
    pool = UpstreamPool(router, None)
    async with pool.following():
        assert [manifest.id for manifest in pool.manifests] == ["c"]
        assert len(pool.missing) == 2
        router.send(2, model("http://mended"))
        await until(lambda: "http://mended" in opened)


async def test_a_router_that_comes_back_is_asked_for_its_whole_table(opened):
    router = Router()
    router.send(7, model("http://old"))
    pool = UpstreamPool(router, None)
    async with pool.following():
        router.tables.put_nowait(Unavailable("restarted"))
        router.send(7, model("http://new"))
        await until(lambda: "http://new" in opened)
    assert router.known == [0, 0]


async def test_outcomes_that_could_not_be_sent_are_sent_again(opened):
    router = Router()
    router.send(1, model("http://old"))
    pool = UpstreamPool(router, None)
    async with pool.following():
        router.failures.append(Unavailable("restarting"))
        pool.started("a")
        pool.ended("a", ok=False, first_token_us=0, duration_us=1)
        await until(lambda: len(router.outcomes) == 2)

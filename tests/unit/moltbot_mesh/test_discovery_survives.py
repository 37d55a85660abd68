"""Nothing that stands in the registry, and no defect, ends discovery."""

from __future__ import annotations

import asyncio

import pytest
from moltbot.third_party.etcd.v3 import kv_pb2, rpc_pb2

from moltbot_mesh import balancer
from moltbot_mesh.balancer import BalancedChannel
from moltbot_mesh.etcd_watch import Change, EtcdValue, _Mirror
from moltbot_mesh.registry import EtcdRegistry, InProcessRegistry, Instance

GOOD = b'{"target": "127.0.0.1:1"}'


class Client:
    """An etcd client whose watch tells one change."""

    def __init__(self, values: dict[str, bytes]) -> None:
        self._values = {key: EtcdValue(value, 1, 1, 0) for key, value in values.items()}

    async def watch_prefix(self, _prefix):
        yield Change(1, {}, frozenset(), self._values, resync=True)
        await asyncio.sleep(60)


@pytest.mark.parametrize("value", [b'{"target": "\xff"}', b"", b"[]", b'{"target": 1}', b"\xff"])
async def test_a_value_that_is_no_instance_is_left_out(value):
    registry = EtcdRegistry(Client({"/moltbot/services/tool/a": GOOD, "/moltbot/services/tool/b": value}))
    async for found in registry.watch("tool"):
        assert [instance.id for instance in found] == ["a"]
        break


def test_a_key_that_is_no_text_is_still_a_key():
    mirror = _Mirror("/p/")
    event = kv_pb2.Event(type=kv_pb2.Event.PUT, kv=kv_pb2.KeyValue(key=b"/p/\xff", value=b"v", mod_revision=2))
    (change,) = mirror.applied(rpc_pb2.WatchResponse(events=[event]))
    assert list(change.values) == ["/p/\\xff"]


class BrokenOnce(InProcessRegistry):
    def __init__(self) -> None:
        super().__init__()
        self.closed = 0
        self._broken = False

    async def watch(self, service):
        if not self._broken:
            self._broken = True
            raise ValueError("a defect")
        try:
            async for found in super().watch(service):
                yield found
        finally:
            self.closed += 1


async def test_a_defect_of_the_registry_is_logged_and_survived():
    registry = BrokenOnce()
    async with registry.register(Instance("tool", "a", "127.0.0.1:1")):
        channel = BalancedChannel(registry, "tool")
        async with asyncio.timeout(20):
            while not channel.instances():
                await asyncio.sleep(0.01)
        await channel.close()
    assert registry.closed == 1


async def test_a_defect_of_a_health_check_does_not_end_the_others(monkeypatch):
    asked: list[str] = []

    async def check_health(self):
        asked.append(self.instance.id)
        if self.instance.id == "a":
            raise ValueError("a defect")

    monkeypatch.setattr(balancer.Peer, "check_health", check_health)
    registry = InProcessRegistry()
    async with (
        registry.register(Instance("tool", "a", "127.0.0.1:1")),
        registry.register(Instance("tool", "b", "127.0.0.1:2")),
    ):
        channel = BalancedChannel(registry, "tool", health_interval_s=0.01)
        async with asyncio.timeout(20):
            while asked.count("b") < 3:
                await asyncio.sleep(0.01)
        await channel.close()

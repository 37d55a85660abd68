"""Envoy before separate services: what the registry says reaches it, and nothing else ends it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from moltbot_daemon import front
from moltbot_daemon.places import Places
from moltbot_daemon.settings import EtcdSettings, Settings
from moltbot_mesh.envoy.config import EXPOSED
from moltbot_mesh.errors import PermissionDenied
from moltbot_mesh.registry import Instance


class Registry:
    def __init__(self) -> None:
        self.changes = {service: asyncio.Queue() for service in EXPOSED}

    def found(self, service: str, *targets: str) -> None:
        self.changes[service].put_nowait(frozenset(Instance(service, target, target) for target in targets))

    async def watch(self, service):
        while True:
            change = await self.changes[service].get()
            if isinstance(change, Exception):
                raise change
            yield change


class Child:
    def __init__(self) -> None:
        self.runs = False

    @contextlib.asynccontextmanager
    async def running(self):
        self.runs = True
        try:
            yield
        finally:
            self.runs = False

    async def wait_ready(self, timeout_s):
        pass


class Envoy:
    """What `EnvoyProcess` does, told and not done."""

    updates: list[dict[str, tuple[str, ...]]]
    fails = False
    admin = None

    def __init__(self, config, *_args) -> None:
        self.config = config
        self.updates = [dict(config.upstreams)]

    def check_port(self):
        pass

    prepare = check_port

    async def port(self):
        return 8080

    def update(self, config):
        if self.fails:
            self.fails = False
            raise OSError(28, "No space left on device")
        self.updates.append(dict(config.upstreams))


@pytest.fixture
def parts(monkeypatch):
    registry, child, envoys = Registry(), Child(), []

    def made(*args):
        envoys.append(Envoy(*args))
        return envoys[-1]

    class Client:
        async def close(self):
            pass

    monkeypatch.setattr(front, "EtcdClient", lambda *_: Client())
    monkeypatch.setattr(front, "EtcdRegistry", lambda *_: registry)
    monkeypatch.setattr(front, "EnvoyProcess", made)
    monkeypatch.setattr(front, "envoy_supervisor", lambda _envoy: child)
    return registry, child, envoys


@pytest.fixture
def serving(tmp_path):
    settings = Settings(etcd=EtcdSettings(endpoints=["127.0.0.1:1"]))
    return lambda: front.serving(settings, Places(tmp_path, tmp_path, tmp_path, tmp_path / "key"))


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_disk_that_is_full_for_a_moment_does_not_end_envoy(parts, serving):
    registry, child, envoys = parts
    for service in EXPOSED:
        registry.found(service, "127.0.0.1:1")
    async with serving() as url:
        assert url == "http://127.0.0.1:8080"
        envoys[0].fails = True
        registry.found("gateway", "127.0.0.1:2")
        await until(lambda: not envoys[0].fails)
        registry.found("gateway", "127.0.0.1:3")
        await until(lambda: envoys[0].updates[-1]["gateway"] == ("127.0.0.1:3",))
        assert child.runs
    assert not child.runs


async def test_a_registry_that_refuses_is_the_reason_that_is_given(parts, serving):
    registry, _, _ = parts
    registry.changes["gateway"].put_nowait(PermissionDenied("etcd: this user may not watch"))
    with pytest.raises(PermissionDenied, match="may not watch"):
        async with asyncio.timeout(20), serving():
            pass


async def test_a_registry_that_refuses_later_leaves_envoy_with_what_it_knows(parts, serving):
    registry, child, _ = parts
    for service in EXPOSED:
        registry.found(service, "127.0.0.1:1")
    async with serving():
        registry.changes["gateway"].put_nowait(PermissionDenied("etcd: this user may not watch"))
        await asyncio.sleep(0.02)
        assert child.runs


async def test_who_is_told_to_stop_while_envoy_starts_leaves_nothing_running(parts, serving):
    registry, child, _ = parts
    child.wait_ready = lambda _timeout_s: asyncio.sleep(60)
    for service in EXPOSED:
        registry.found(service, "127.0.0.1:1")
    before = asyncio.all_tasks()

    async def run():
        async with serving():
            pass

    task = asyncio.create_task(run())
    await until(lambda: child.runs)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not child.runs
    assert asyncio.all_tasks() == before

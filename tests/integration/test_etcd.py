"""The etcd client, the registry and the store against a real etcd that is killed, compacted and robbed of its data."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from moltbot_mesh.errors import Cancelled, NotFound, OutOfRange, PermissionDenied, Unauthenticated, Unavailable
from moltbot_mesh.etcd import EtcdClient
from moltbot_mesh.keyvalue import EtcdKeyValueStore
from moltbot_mesh.registry import EtcdRegistry, Instance
from moltbot_testkit.etcd import EtcdServer
from moltbot_testkit.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from moltbot_mesh.etcd_watch import Change


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path) as server:
        yield server


@pytest.fixture
async def client(etcd: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with EtcdClient([etcd.endpoint]) as client:
        yield client


def told(change: Change) -> tuple[dict[str, bytes], set[str]]:
    return {key: value.value for key, value in change.puts.items()}, set(change.deletes)


async def test_a_put_under_a_compared_revision_loses_against_one_that_came_first(client: EtcdClient) -> None:
    assert await client.put_if("/a", b"1", mod_revision=0)
    assert not await client.put_if("/a", b"2", mod_revision=0)
    read = await client.get("/a")
    assert read is not None
    assert await client.put_if("/a", b"3", read.mod_revision)
    assert not await client.put_if("/a", b"4", read.mod_revision)
    assert (await client.get_prefix("/")).values["/a"].value == b"3"
    assert await client.delete_prefix("/") == 1


async def test_the_past_can_be_read_until_it_is_compacted(client: EtcdClient) -> None:
    then = await client.put("/a", b"1")
    now = await client.put("/a", b"2")
    assert (await client.get_prefix("/", then)).values["/a"].value == b"1"
    await client.compact(now)
    with pytest.raises(OutOfRange):
        await client.get_prefix("/", then)
    with pytest.raises(OutOfRange):
        await client.get_prefix("/", now + 100)


async def test_a_lease_takes_its_keys_with_it(client: EtcdClient) -> None:
    lease = await client.grant_lease(60)
    await client.put("/a", b"1", lease.id)
    assert await client.keep_alive(lease.id) == lease.ttl_s
    assert 0 < await client.lease_ttl_s(lease.id) <= lease.ttl_s
    await client.revoke_lease(lease.id)
    await client.revoke_lease(lease.id)
    assert await client.get("/a") is None
    assert await client.keep_alive(lease.id) == 0
    assert await client.lease_ttl_s(lease.id) == -1
    with pytest.raises(NotFound):
        await client.put("/a", b"1", lease.id)


async def test_each_revision_is_one_change_in_order(client: EtcdClient) -> None:
    await client.put("/p/a", b"1")
    async with contextlib.aclosing(client.watch_prefix("/p/")) as watch, asyncio.timeout(10):
        first = await anext(watch)
        assert (told(first), first.resync) == (({"/p/a": b"1"}, set()), True)
        await client.put("/other", b"x")
        await client.put("/p/b", b"2")
        await client.delete_prefix("/p/")
        await client.put("/p/a", b"3")
        changes = [await anext(watch) for _ in range(3)]
    assert [told(change) for change in changes] == [
        ({"/p/b": b"2"}, set()),
        ({}, {"/p/a", "/p/b"}),
        ({"/p/a": b"3"}, set()),
    ]
    assert [change.resync for change in changes] == [False] * 3
    assert [sorted(change.values) for change in changes] == [["/p/a", "/p/b"], [], ["/p/a"]]
    assert [change.revision for change in changes] == sorted({change.revision for change in changes})


async def test_a_watch_continues_without_a_gap_after_etcd_was_killed(etcd: EtcdServer, client: EtcdClient) -> None:
    async with contextlib.aclosing(client.watch_prefix("/p/")) as watch, asyncio.timeout(20):
        await anext(watch)
        await client.put("/p/a", b"1")
        assert told(await anext(watch)) == ({"/p/a": b"1"}, set())
        pending = asyncio.ensure_future(anext(watch))
        await asyncio.to_thread(etcd.kill)
        await asyncio.to_thread(etcd.start)
        # Before the watch is back: what it tells of this, it can have only from history.
        for value in ("2", "3", "4"):
            await asyncio.to_thread(etcd.ctl, "put", "/p/a", value)
        await asyncio.to_thread(etcd.ctl, "del", "/p/a")
        changes = [await pending, *[await anext(watch) for _ in range(3)]]
    assert [told(change) for change in changes] == [
        ({"/p/a": b"2"}, set()),
        ({"/p/a": b"3"}, set()),
        ({"/p/a": b"4"}, set()),
        ({}, {"/p/a"}),
    ]
    assert not any(change.resync for change in changes)


async def test_after_compaction_a_watch_tells_the_differences(etcd: EtcdServer, client: EtcdClient) -> None:
    for name in ("kept", "changed", "gone"):
        await client.put(f"/p/{name}", b"1")
    async with contextlib.aclosing(client.watch_prefix("/p/")) as watch, asyncio.timeout(20):
        await anext(watch)
        pending = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.05)
        etcd.kill()  # and the loop gets no turn until all this is done
        etcd.start()
        etcd.ctl("put", "/p/changed", "2")
        etcd.ctl("put", "/p/changed", "3")
        etcd.ctl("put", "/p/new", "4")
        etcd.ctl("del", "/p/gone")
        etcd.ctl("compact", str(json.loads(etcd.ctl("get", "/", "-w", "json"))["header"]["revision"]))
        change = await pending
        assert told(change) == ({"/p/changed": b"3", "/p/new": b"4"}, {"/p/gone"})
        assert change.resync
        await client.put("/p/after", b"5")
        after = await anext(watch)
        assert (told(after), after.resync) == (({"/p/after": b"5"}, set()), False)


@pytest.mark.parametrize("writes", [0, 15], ids=["revision went back", "revision has grown past ours"])
async def test_a_watch_finds_out_that_etcd_lost_its_data(etcd: EtcdServer, client: EtcdClient, writes: int) -> None:
    for n in range(10):
        await client.put(f"/p/{n}", b"old")
    async with contextlib.aclosing(client.watch_prefix("/p/")) as watch, asyncio.timeout(20):
        assert len((await anext(watch)).values) == 10
        pending = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.05)
        etcd.kill()  # and the loop gets no turn until all this is done
        etcd.lose_data()
        etcd.start()
        for n in range(writes):
            etcd.ctl("put", "/elsewhere" if n else "/p/1", "new")
        change = await pending
        expected = {"/p/1": b"new"} if writes else {}
        assert change.resync
        assert {key: value.value for key, value in change.values.items()} == expected
        await client.put("/p/2", b"new")
        assert told(await anext(watch)) == ({"/p/2": b"new"}, set())


async def test_a_watch_that_waits_for_etcd_begins_when_it_is_there(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path)
    async with EtcdClient([server.endpoint], timeout_s=0.3) as client:
        with pytest.raises(Unavailable, match=server.endpoint):
            await client.get("/a")
        async with contextlib.aclosing(client.watch_prefix("/p/")) as watch, asyncio.timeout(20):
            pending = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0.5)
            assert not pending.done()
            with server:
                assert (await pending).values == {}


async def test_closing_the_client_ends_its_watches(client: EtcdClient) -> None:
    async with contextlib.aclosing(client.watch_prefix("/p/")) as watch, asyncio.timeout(10):
        await anext(watch)
        pending = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(Cancelled):
            await pending


async def test_a_member_that_is_not_there_is_passed_over(etcd: EtcdServer) -> None:
    async with EtcdClient([f"127.0.0.1:{free_port()}", etcd.endpoint]) as client:
        began_s = time.monotonic()
        await client.put("/p/a", b"1")
        assert time.monotonic() - began_s < 4
        async with contextlib.aclosing(client.watch_prefix("/p/")) as watch, asyncio.timeout(10):
            assert set((await anext(watch)).values) == {"/p/a"}
        lease = await client.grant_lease(5)
        assert await client.keep_alive(lease.id) == 5


async def test_user_and_password_open_what_the_role_opens(etcd: EtcdServer) -> None:
    for command in (
        "user add root:secret",
        "user add reader:secret",
        "user grant-role root root",
        "role add reader",
        "role grant-permission reader --prefix=true read /open/",
        "user grant-role reader reader",
        "auth enable",
    ):
        if command == "user grant-role root root":
            with contextlib.suppress(RuntimeError):  # some versions make the role by themselves
                await asyncio.to_thread(etcd.ctl, "role", "add", "root")
        await asyncio.to_thread(etcd.ctl, *command.split())
    async with EtcdClient([etcd.endpoint], username="root", password="secret") as root:
        await root.put("/open/a", b"1")
    async with EtcdClient([etcd.endpoint], username="reader", password="secret") as reader, asyncio.timeout(30):
        assert set((await reader.get_prefix("/open/")).values) == {"/open/a"}
        with pytest.raises(PermissionDenied):
            await reader.put("/open/a", b"2")
        with pytest.raises(PermissionDenied):
            await anext(reader.watch_prefix("/closed/"))
        async with contextlib.aclosing(reader.watch_prefix("/open/")) as watch:
            await anext(watch)
            pending = asyncio.ensure_future(anext(watch))
            # A restarted etcd knows none of the tokens it gave.
            await asyncio.to_thread(etcd.kill)
            await asyncio.to_thread(etcd.start)
            await asyncio.to_thread(etcd.ctl, "--user=root:secret", "put", "/open/a", "3")
            assert told(await pending) == ({"/open/a": b"3"}, set())
    async with EtcdClient([etcd.endpoint], username="reader", password="wrong") as wrong:
        with pytest.raises(Unauthenticated, match="reader"):
            await wrong.get("/open/a")


async def test_an_instance_whose_process_died_is_gone_when_its_lease_ends(etcd: EtcdServer) -> None:
    script = """
import asyncio, sys
from moltbot_mesh.etcd import EtcdClient
from moltbot_mesh.registry import EtcdRegistry, Instance
async def main():
    async with EtcdClient([sys.argv[1]]) as client:
        async with EtcdRegistry(client, lease_ttl_s=1).register(Instance("router", "doomed", "127.0.0.1:1")):
            print("registered", flush=True)
            await asyncio.sleep(60)
asyncio.run(main())
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    async with (
        EtcdClient([etcd.endpoint]) as client,
        contextlib.aclosing(EtcdRegistry(client).watch("router")) as watch,
        asyncio.timeout(30),
    ):
        assert await anext(watch) == frozenset()
        argv = [sys.executable, "-c", script, etcd.endpoint]
        with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE) as process:
            assert {instance.id for instance in await anext(watch)} == {"doomed"}
            await asyncio.sleep(2.5)  # longer than the lease: it is kept alive
            assert (await client.get("/moltbot/services/router/doomed")) is not None
            process.kill()
        killed_s = time.monotonic()
        assert await anext(watch) == frozenset()
        assert time.monotonic() - killed_s < 8


async def test_an_instance_registers_again_after_etcd_lost_its_data(etcd: EtcdServer, client: EtcdClient) -> None:
    registry = EtcdRegistry(client, lease_ttl_s=1)
    instance = Instance("router", "a", "127.0.0.1:9001", {"zone": "1"})
    async with registry.register(instance), contextlib.aclosing(registry.watch("router")) as watch:
        async with asyncio.timeout(20):
            assert await anext(watch) == {instance}
            await asyncio.to_thread(etcd.kill)
            await asyncio.to_thread(etcd.lose_data)
            await asyncio.to_thread(etcd.start)
            while await client.get("/moltbot/services/router/a") is None:
                await asyncio.sleep(0.05)
    assert await client.get("/moltbot/services/router/a") is None


async def test_an_instance_that_leaves_is_gone_at_once(client: EtcdClient) -> None:
    registry = EtcdRegistry(client)
    async with contextlib.aclosing(registry.watch("router")) as watch, asyncio.timeout(10):
        assert await anext(watch) == frozenset()
        async with registry.register(Instance("router", "a", "unix:/a")):
            assert {instance.id for instance in await anext(watch)} == {"a"}
        left_s = time.monotonic()
        assert await anext(watch) == frozenset()
        assert time.monotonic() - left_s < 2


async def test_what_is_not_an_instance_is_ignored(client: EtcdClient) -> None:
    await client.put("/moltbot/services/router/broken", b"not json")
    await client.put("/moltbot/services/router/newer", b'{"target": "unix:/a", "weight": 3}')
    async with contextlib.aclosing(EtcdRegistry(client).watch("router")) as watch:
        assert await anext(watch) == {Instance("router", "newer", "unix:/a")}


async def test_the_registry_can_be_read_with_the_etcd3_package(etcd: EtcdServer, client: EtcdClient) -> None:
    script = """
import json, sys
import etcd3
host, port = sys.argv[1].split(":")
client = etcd3.client(host=host, port=int(port))
found = {meta.key.decode(): json.loads(value) for value, meta in client.get_prefix("/moltbot/services/")}
client.put("/moltbot/store/from-etcd3", "hello")
print(json.dumps(found))
"""
    env = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    registry = EtcdRegistry(client)
    async with registry.register(Instance("router", "a", "127.0.0.1:9001", {"zone": "1"})):
        argv = [sys.executable, "-W", "ignore", "-c", script, etcd.endpoint]
        done = await asyncio.to_thread(
            subprocess.run, argv, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "/moltbot/services/router/a": {"target": "127.0.0.1:9001", "metadata": {"zone": "1"}}
    }
    assert await EtcdKeyValueStore(client).get("from-etcd3") == b"hello"

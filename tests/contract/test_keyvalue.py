"""What every key-value store promises, on each of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING

import pytest

from moltbot_mesh.errors import AlreadyExists, InvalidArgument
from moltbot_mesh.etcd import EtcdClient
from moltbot_mesh.keyvalue import EtcdKeyValueStore, FileKeyValueStore, KeyValueStore, MemoryKeyValueStore
from moltbot_testkit.etcd import EtcdServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

_PREFIXES = itertools.count()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture(params=["memory", "file", "etcd"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeyValueStore]:
    if request.param == "memory":
        yield MemoryKeyValueStore()
    elif request.param == "file":
        yield FileKeyValueStore(tmp_path / "store")
    else:
        server: EtcdServer = request.getfixturevalue("etcd")
        async with EtcdClient([server.endpoint]) as client:
            yield EtcdKeyValueStore(client, f"/contract/{next(_PREFIXES)}/")


async def test_a_key_that_was_never_put_is_not_there(store: KeyValueStore) -> None:
    assert await store.get("rules") is None
    assert await store.list("") == {}
    assert await store.delete("rules") is False


async def test_what_was_put_last_is_what_stands(store: KeyValueStore) -> None:
    await store.put("rules", b"one")
    await store.put("rules", b"two")
    assert await store.get("rules") == b"two"


@pytest.mark.parametrize("key", ["a/b/c", ".", "..", ".tmp1", "ümlaut key", "a%2Fb", "-", "x" * 200])
async def test_any_text_may_be_a_key(store: KeyValueStore, key: str) -> None:
    await store.put(key, b"\x00\xff")
    assert await store.get(key) == b"\x00\xff"
    assert await store.list("") == {key: b"\x00\xff"}
    assert await store.delete(key) is True
    assert await store.list("") == {}


@pytest.mark.parametrize("key", ["", "x" * 300])
async def test_a_key_that_a_file_cannot_have_is_refused_everywhere(store: KeyValueStore, key: str) -> None:
    with pytest.raises(InvalidArgument):
        await store.put(key, b"1")
    with pytest.raises(InvalidArgument):
        await store.create(key, b"1")


async def test_a_list_has_the_keys_of_its_prefix_alone(store: KeyValueStore) -> None:
    for key in ("keys/a", "keys/b", "keyset", "rules"):
        await store.put(key, key.encode())
    assert await store.list("keys/") == {"keys/a": b"keys/a", "keys/b": b"keys/b"}


async def test_create_refuses_a_key_that_stands_and_leaves_it(store: KeyValueStore) -> None:
    await store.create("epoch/1", b"first")
    with pytest.raises(AlreadyExists):
        await store.create("epoch/1", b"second")
    assert await store.get("epoch/1") == b"first"


async def test_of_many_that_create_at_once_one_succeeds(store: KeyValueStore) -> None:
    results = await asyncio.gather(
        *(store.create("epoch/1", str(n).encode()) for n in range(8)), return_exceptions=True
    )
    winners = [n for n, result in enumerate(results) if result is None]
    assert len(winners) == 1
    assert all(isinstance(result, AlreadyExists) for n, result in enumerate(results) if n not in winners)
    assert await store.get("epoch/1") == str(winners[0]).encode()


async def test_a_key_can_be_created_again_after_it_was_deleted(store: KeyValueStore) -> None:
    await store.create("a", b"1")
    assert await store.delete("a") is True
    await store.create("a", b"2")
    assert await store.get("a") == b"2"


async def test_a_watch_begins_with_what_is_there_also_if_that_is_nothing(store: KeyValueStore) -> None:
    async with contextlib.aclosing(store.watch("keys/")) as watch, asyncio.timeout(5):  # type: ignore[type-var]
        assert await anext(watch) == {}
    await store.put("keys/a", b"1")
    async with contextlib.aclosing(store.watch("keys/")) as watch, asyncio.timeout(5):  # type: ignore[type-var]
        assert await anext(watch) == {"keys/a": b"1"}


async def test_a_watch_tells_each_change_of_its_prefix(store: KeyValueStore) -> None:
    async with contextlib.aclosing(store.watch("keys/")) as watch, asyncio.timeout(5):  # type: ignore[type-var]
        assert await anext(watch) == {}
        await store.put("rules", b"not this")
        await store.put("keys/a", b"1")
        assert await anext(watch) == {"keys/a": b"1"}
        await store.put("keys/a", b"2")
        assert await anext(watch) == {"keys/a": b"2"}
        await store.create("keys/b", b"3")
        assert await anext(watch) == {"keys/a": b"2", "keys/b": b"3"}
        await store.delete("keys/a")
        assert await anext(watch) == {"keys/b": b"3"}


async def test_a_watcher_may_change_what_it_was_given(store: KeyValueStore) -> None:
    await store.put("keys/a", b"1")
    async with contextlib.aclosing(store.watch("keys/")) as watch, asyncio.timeout(5):  # type: ignore[type-var]
        (await anext(watch)).clear()
        await store.put("keys/b", b"2")
        assert await anext(watch) == {"keys/a": b"1", "keys/b": b"2"}

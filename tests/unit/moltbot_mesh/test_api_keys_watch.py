"""API keys stay current whatever the store does."""

from __future__ import annotations

import asyncio

import pytest

from moltbot_mesh.api_keys import ApiKeys
from moltbot_mesh.errors import Unauthenticated, Unavailable
from moltbot_mesh.keyvalue import MemoryKeyValueStore
from moltbot_mesh.keyvalue_files import FileKeyValueStore


class BrokenOnce(MemoryKeyValueStore):
    """A store whose first watch breaks after its first answer."""

    def __init__(self) -> None:
        super().__init__()
        self.watches = 0

    async def watch(self, prefix):
        self.watches += 1
        first = self.watches == 1
        async for entries in super().watch(prefix):
            yield entries
            if first:
                raise Unavailable("the store went away")


class SlowList(MemoryKeyValueStore):
    """A store whose listing can be held back between reading and answering."""

    def __init__(self) -> None:
        super().__init__()
        self.held: asyncio.Event | None = None
        self.reading = asyncio.Event()

    async def list(self, prefix):
        found = await super().list(prefix)
        await self._hold()
        return found

    async def get(self, key):
        found = await super().get(key)
        await self._hold()
        return found

    async def _hold(self) -> None:
        if self.held is not None:
            self.reading.set()
            await self.held.wait()


async def _revoked_elsewhere(store: MemoryKeyValueStore, key_id: str) -> None:
    """Revoke by another process, which only the store tells of."""
    await ApiKeys(store).revoke(key_id)


async def _is_refused(keys: ApiKeys, text: str) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                await keys.authenticate(f"Bearer {text}")
            except Unauthenticated:
                return
            await asyncio.sleep(0.01)


async def test_a_key_revoked_after_the_watch_broke_is_refused():
    store = BrokenOnce()
    keys = ApiKeys(store)
    async with keys.watching():
        key, text = await keys.create("acme")
        await asyncio.sleep(0.01)
        await _revoked_elsewhere(store, key.id)
        await _is_refused(keys, text)


async def test_an_entry_that_is_no_key_does_not_keep_the_others_from_being_revoked():
    store = MemoryKeyValueStore()
    await store.put("api_keys/broken", b"{not json")
    keys = ApiKeys(store)
    async with keys.watching():
        key, text = await keys.create("acme")
        await keys.authenticate(f"Bearer {text}")
        await _revoked_elsewhere(store, key.id)
        await _is_refused(keys, text)
        assert [shown.id for shown in await keys.list()] == [key.id]


async def test_looking_for_an_unknown_key_brings_no_revoked_one_back():
    store = SlowList()
    keys = ApiKeys(store)
    async with keys.watching():
        key, text = await keys.create("acme")
        store.held = asyncio.Event()
        guess = asyncio.create_task(keys.authenticate("Bearer mb_unknown_0"))
        await store.reading.wait()
        held, store.held = store.held, None
        await keys.revoke(key.id)
        await asyncio.sleep(0.01)
        held.set()
        with pytest.raises(Unauthenticated):
            await guess
        with pytest.raises(Unauthenticated, match="revoked"):
            await keys.authenticate(f"Bearer {text}")


async def test_a_key_made_elsewhere_a_moment_ago_is_known_at_once():
    store = MemoryKeyValueStore()
    keys = ApiKeys(store)
    _, text = await ApiKeys(store).create("acme")
    assert (await keys.authenticate(f"Bearer {text}")).tenant == "acme"


async def test_the_first_requests_with_a_new_key_may_come_together():
    store = SlowList()
    keys = ApiKeys(store)
    _, text = await ApiKeys(store).create("acme")
    store.held = asyncio.Event()
    together = [asyncio.create_task(keys.authenticate(f"Bearer {text}")) for _ in range(3)]
    await store.reading.wait()
    await asyncio.sleep(0.01)
    store.held.set()
    assert {principal.tenant for principal in await asyncio.gather(*together)} == {"acme"}


async def test_an_id_that_no_store_takes_is_an_unknown_key(tmp_path):
    with pytest.raises(Unauthenticated, match="not known"):
        await ApiKeys(FileKeyValueStore(tmp_path)).authenticate(f"Bearer mb_{'x' * 4096}_0")

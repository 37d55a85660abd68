from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from moltbot_mesh.errors import FailedPrecondition, InvalidArgument, NotFound
from moltbot_mesh.keyvalue import MemoryKeyValueStore
from moltbot_watermark.keys import Keyring, State
from moltbot_watermark.master_key import MasterKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = bytes(range(32))
YEAR_S = 365 * 86_400.0


@pytest.fixture
def store() -> MemoryKeyValueStore:
    return MemoryKeyValueStore()


@pytest.fixture
async def keyring(store: MemoryKeyValueStore) -> AsyncIterator[Keyring]:
    keyring = Keyring(MasterKey(SECRET), store, YEAR_S)
    async with keyring.watching():
        yield keyring


async def test_issuing_twice_gives_the_same_epoch(keyring: Keyring) -> None:
    first = await keyring.issue("acme")
    assert (first.epoch, first.state) == (1, State.ACTIVE)
    assert await keyring.issue("acme") == first


async def test_two_that_issue_at_once_get_one_epoch(store: MemoryKeyValueStore) -> None:
    rings = [Keyring(MasterKey(SECRET), store, YEAR_S) for _ in range(2)]
    epochs = await asyncio.gather(*(ring.issue("acme") for ring in rings))
    assert epochs[0] == epochs[1]


async def test_rotation_retires_the_epoch_before_and_it_still_verifies(keyring: Keyring) -> None:
    await keyring.issue("acme")
    old_key = keyring.key("acme", 1, "unicode")
    assert (await keyring.rotate("acme")).epoch == 2
    assert [epoch.state for epoch in keyring.epochs("acme")] == [State.RETIRED, State.ACTIVE]
    assert [epoch.epoch for epoch in keyring.verifying("acme")] == [1, 2]
    assert keyring.key("acme", 1, "unicode") == old_key != keyring.key("acme", 2, "unicode")
    assert keyring.marks("acme", 1)


async def test_two_that_rotate_at_once_get_two_epochs(store: MemoryKeyValueStore) -> None:
    rings = [Keyring(MasterKey(SECRET), store, YEAR_S) for _ in range(2)]
    for ring in rings:
        await ring.issue("acme")
    epochs = await asyncio.gather(*(ring.rotate("acme") for ring in rings))
    assert {epoch.epoch for epoch in epochs} == {2, 3}


async def test_a_revoked_epoch_verifies_and_marks_no_more(keyring: Keyring) -> None:
    await keyring.issue("acme")
    revoked = await keyring.revoke("acme", 1)
    assert revoked.state is State.REVOKED
    assert await keyring.revoke("acme", 1) == revoked
    assert [epoch.epoch for epoch in keyring.verifying("acme")] == [1]
    assert not keyring.marks("acme", 1)
    with pytest.raises(FailedPrecondition, match="rotate"):
        keyring.active("acme")
    with pytest.raises(FailedPrecondition, match="rotate"):
        await keyring.issue("acme")
    assert (await keyring.rotate("acme")).epoch == 2


async def test_an_epoch_verifies_no_more_after_its_retention(store: MemoryKeyValueStore) -> None:
    keyring = Keyring(MasterKey(SECRET), store, retention_s=-1.0)
    await keyring.issue("acme")
    await keyring.rotate("acme")
    assert [epoch.epoch for epoch in keyring.verifying()] == [2]


async def test_what_is_not_there_is_not_found(keyring: Keyring) -> None:
    with pytest.raises(NotFound):
        keyring.active("acme")
    with pytest.raises(NotFound):
        await keyring.rotate("acme")
    await keyring.issue("acme")
    with pytest.raises(NotFound):
        await keyring.revoke("acme", 2)
    with pytest.raises(NotFound):
        keyring.key("acme", 2, "unicode")


async def test_a_tenant_name_that_is_no_name_is_refused(keyring: Keyring) -> None:
    with pytest.raises(InvalidArgument, match="tenant"):
        await keyring.issue("../acme")


async def test_another_instance_sees_a_rotation(store: MemoryKeyValueStore, keyring: Keyring) -> None:
    other = Keyring(MasterKey(SECRET), store, YEAR_S)
    async with other.watching(), asyncio.timeout(5.0):
        await keyring.issue("acme")
        await keyring.rotate("acme")
        while len(other.epochs("acme")) < 2:
            await asyncio.sleep(0)
        assert other.key("acme", 2, "unicode") == keyring.key("acme", 2, "unicode")


async def test_late_news_do_not_undo_what_is_known(store: MemoryKeyValueStore) -> None:
    keyring = Keyring(MasterKey(SECRET), store, YEAR_S)
    await keyring.issue("acme")
    before = await store.list("")
    await keyring.rotate("acme")
    await keyring.revoke("acme", 1)
    keyring._take(before)
    assert [epoch.state for epoch in keyring.epochs("acme")] == [State.REVOKED, State.ACTIVE]

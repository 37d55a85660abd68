"""Nothing that stands in the store, and no failure of it, keeps the news of a revocation from arriving."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest
from structlog.testing import capture_logs

from moltbot_mesh.errors import FailedPrecondition, Unavailable
from moltbot_mesh.keyvalue import MemoryKeyValueStore
from moltbot_watermark import keys
from moltbot_watermark.keys import Keyring
from moltbot_watermark.master_key import MasterKey

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

SECRET = bytes(range(32))
YEAR_S = 365 * 86_400.0
PREFIX = "watermark_epochs/"


class FailingStore(MemoryKeyValueStore):
    """Its watches fail as often as a test says."""

    failures = 0

    async def watch(self, prefix: str) -> AsyncGenerator[dict[str, bytes]]:
        if self.failures:
            self.failures -= 1
            raise Unavailable("the store hangs")
        async for entries in super().watch(prefix):
            yield entries


async def until_revoked(keyring: Keyring) -> None:
    async with asyncio.timeout(5):
        while keyring.marks("acme", 1):
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_RETRY_S", 0.01)


async def test_a_store_that_fails_for_a_while_is_followed_again() -> None:
    store = FailingStore()
    here, elsewhere = (Keyring(MasterKey(SECRET), store, YEAR_S) for _ in range(2))
    await elsewhere.issue("acme")
    store.failures = 2
    with capture_logs() as logs:
        async with here.watching():
            await elsewhere.revoke("acme", 1)
            await until_revoked(here)
    assert [entry["log_level"] for entry in logs] == ["error", "error"]


@pytest.mark.parametrize("key", ["acme/2", "acme/x", "acme/70000", "acme/0", "/1", "loose"])
@pytest.mark.parametrize("value", [b"", b"{", b'{"create_time_s": "\xff"}', b"[]"])
async def test_a_damaged_entry_stops_no_news_and_is_told_once(key: str, value: bytes) -> None:
    store = MemoryKeyValueStore()
    here, elsewhere = (Keyring(MasterKey(SECRET), store, YEAR_S) for _ in range(2))
    await elsewhere.issue("acme")
    with capture_logs() as logs:
        async with here.watching():
            await store.put(PREFIX + key, value)
            await asyncio.sleep(0)
            await elsewhere.revoke("acme", 1)
            await until_revoked(here)
    assert [entry.get("key") for entry in logs] == [PREFIX + key]


async def test_a_number_that_no_mark_can_hold_is_no_epoch() -> None:
    store = MemoryKeyValueStore()
    await store.put(PREFIX + "acme/70000", msgspec.json.encode({"create_time_s": 1.0}))
    keyring = Keyring(MasterKey(SECRET), store, YEAR_S)
    async with keyring.watching():
        assert keyring.verifying() == []


async def test_an_epoch_that_cannot_be_read_verifies_and_marks_no_more_and_its_number_stays_taken() -> None:
    store = MemoryKeyValueStore()
    before = Keyring(MasterKey(SECRET), store, YEAR_S)
    await before.issue("acme")
    await before.rotate("acme")
    await store.put(PREFIX + "acme/2", b"{")
    after = Keyring(MasterKey(SECRET), store, YEAR_S)
    async with after.watching():
        assert not after.marks("acme", 2)
        with pytest.raises(FailedPrecondition, match="rotate"):
            after.active("acme")
        assert [epoch.epoch for epoch in after.verifying("acme")] == [1, 2]
        assert (await after.rotate("acme")).epoch == 3

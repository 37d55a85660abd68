from __future__ import annotations

import pytest

from moltbot_mesh.api_keys import ApiKeys
from moltbot_mesh.errors import InvalidArgument, NotFound, Unauthenticated
from moltbot_mesh.keyvalue import MemoryKeyValueStore


@pytest.fixture
def store() -> MemoryKeyValueStore:
    return MemoryKeyValueStore()


async def test_a_key_says_whose_it_is(store):
    keys = ApiKeys(store)
    async with keys.watching():
        shown, text = await keys.create("acme", frozenset({"admin", "user"}), "laptop")
        principal = await keys.authenticate(f"Bearer {text}")
    assert (principal.kind, principal.subject, principal.tenant) == ("key", shown.id, "acme")
    assert principal.roles == {"admin", "user"}


async def test_several_keys_made_at_once_all_work_at_once(store):
    keys = ApiKeys(store)
    async with keys.watching():
        for _ in range(3):
            _, text = await keys.create("acme")
            assert (await keys.authenticate(f"bearer {text}")).tenant == "acme"


async def test_a_key_made_elsewhere_works_without_waiting_for_the_watch(store):
    keys = ApiKeys(store)
    async with keys.watching():
        _, text = await ApiKeys(store).create("acme")
        assert (await keys.authenticate(f"Bearer {text}")).tenant == "acme"


async def test_the_secret_is_stored_nowhere(store):
    _, text = await ApiKeys(store).create("acme")
    secret = text.split("_")[2].encode()
    assert not any(secret in value for value in (await store.list("")).values())


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic x", "Bearer sk-123", "Bearer mb_a", "Bearer mb_a_b"]
)
async def test_anything_else_is_refused(store, header):
    keys = ApiKeys(store)
    async with keys.watching():
        with pytest.raises(Unauthenticated):
            await keys.authenticate(header)


async def test_a_known_id_with_another_secret_is_refused(store):
    keys = ApiKeys(store)
    async with keys.watching():
        shown, _ = await keys.create("acme")
        with pytest.raises(Unauthenticated, match="not known"):
            await keys.authenticate(f"Bearer mb_{shown.id}_{'0' * 64}")


async def test_a_revoked_key_is_refused_at_once_and_says_so(store):
    keys = ApiKeys(store)
    async with keys.watching():
        shown, text = await keys.create("acme")
        await keys.revoke(shown.id)
        with pytest.raises(Unauthenticated) as raised:
            await keys.authenticate(f"Bearer {text}")
    assert raised.value.reason == "KEY_REVOKED"


async def test_revoking_twice_keeps_the_first_time(store):
    keys = ApiKeys(store)
    shown, _ = await keys.create("acme")
    first = await keys.revoke(shown.id)
    assert await keys.revoke(shown.id) == first
    assert [key.revoke_time_s for key in await keys.list()] == [first.revoke_time_s]


async def test_an_unknown_id_cannot_be_revoked(store):
    with pytest.raises(NotFound):
        await ApiKeys(store).revoke("nobody")


@pytest.mark.parametrize("tenant", ["", "A", "a/b", "-a", "a" * 64, "a\n"])
async def test_a_tenants_name_has_a_form(store, tenant):
    with pytest.raises(InvalidArgument, match="tenant"):
        await ApiKeys(store).create(tenant)


@pytest.mark.parametrize("roles", [frozenset(), frozenset({"root"})])
async def test_roles_are_known(store, roles):
    with pytest.raises(InvalidArgument, match="roles"):
        await ApiKeys(store).create("acme", roles)

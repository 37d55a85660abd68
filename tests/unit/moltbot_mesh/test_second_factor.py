"""Administrators need a code of their device; a session ends when it is idle, wrong codes lock the key."""

from __future__ import annotations

import pytest

from moltbot_mesh.errors import DataLoss, NotFound, Unauthenticated
from moltbot_mesh.keyvalue import MemoryKeyValueStore
from moltbot_mesh.second_factor import FactorPolicy, SecondFactors, code_at

POLICY = FactorPolicy(idle_s=600, failures=3, lock_s=300, session_s=3000)
PEER = "10.0.0.7"


class Office:
    """A clock, a store, and an administrator with a device."""

    def __init__(self):
        self.now = 1_700_000_000.0
        self.store = MemoryKeyValueStore()
        self.factors = self.another()
        self.uri = ""

    def another(self, secret=b"s" * 32):
        return SecondFactors(self.store, secret, POLICY, lambda: self.now)

    @property
    def code(self):
        return code_at(self.uri, self.now)

    async def refused(self, code="", factors=None, peer=PEER):
        with pytest.raises(Unauthenticated) as error:
            await (factors or self.factors).admit("k1", code, peer)
        return error.value.reason


@pytest.fixture
async def office():
    made = Office()
    made.uri = await made.factors.enrol("k1", "k1 of acme")
    return made


async def test_a_key_without_a_device_is_refused_and_told_how_to_get_one():
    with pytest.raises(Unauthenticated, match="keys enrol k1"):
        await Office().factors.admit("k1", "123456", PEER)


async def test_the_uri_is_what_authenticator_apps_take(office):
    assert office.uri.startswith("otpauth://totp/moltbot:k1%20of%20acme?")
    assert "digits=6" in office.uri
    assert "period=30" in office.uri


async def test_a_code_opens_a_session_that_lasts_while_it_is_used(office):
    assert await office.refused() == "SECOND_FACTOR_REQUIRED"
    await office.factors.admit("k1", office.code, PEER)
    for _ in range(5):
        office.now += 500
        await office.factors.admit("k1", "", PEER)
    office.now += 601
    assert await office.refused() == "SECOND_FACTOR_REQUIRED"


async def test_a_session_ends_however_much_it_is_used(office):
    await office.factors.admit("k1", office.code, PEER)
    for _ in range(5):
        office.now += 500
        await office.factors.admit("k1", "", PEER)
    office.now += 500
    assert await office.refused() == "SECOND_FACTOR_REQUIRED"
    await office.factors.admit("k1", office.code, PEER)
    await office.factors.admit("k1", "", PEER)


async def test_a_stolen_key_does_not_ride_on_its_owners_session(office):
    await office.factors.admit("k1", office.code, PEER)
    assert await office.refused(peer="10.0.0.66") == "SECOND_FACTOR_REQUIRED"
    assert await office.refused(office.code, peer="10.0.0.66") == "SECOND_FACTOR_REQUIRED"
    await office.factors.admit("k1", "", PEER)


async def test_what_is_refused_says_which_header_and_command_help(office):
    with pytest.raises(Unauthenticated, match="header `x-otp`"):
        await office.factors.admit("k1", "", PEER)
    for _ in range(3):
        await office.refused("000000")
    with pytest.raises(Unauthenticated, match="`moltbot keys unlock k1`"):
        await office.factors.admit("k1", "", PEER)


async def test_a_session_holds_on_every_instance(office):
    await office.factors.admit("k1", office.code, PEER)
    await office.another().admit("k1", "", PEER)


async def test_a_code_opens_one_session(office):
    office.now -= office.now % 30
    quick = SecondFactors(office.store, b"s" * 32, FactorPolicy(idle_s=10), lambda: office.now)
    await quick.admit("k1", office.code, PEER)
    await quick.admit("k1", office.code, PEER)  # as good as none while the session is open
    office.now += 15
    assert await office.refused(office.code, quick) == "SECOND_FACTOR_REQUIRED"
    office.now += 30
    await quick.admit("k1", office.code, PEER)


@pytest.mark.parametrize("drift", [-30, 30])
async def test_a_device_whose_clock_drifts_by_a_step_is_taken(office, drift):
    await office.factors.admit("k1", code_at(office.uri, office.now + drift), PEER)


@pytest.mark.parametrize("drift", [-90, 90])
async def test_a_code_of_another_time_is_refused(office, drift):
    assert await office.refused(code_at(office.uri, office.now + drift)) == "SECOND_FACTOR_REQUIRED"


async def test_wrong_codes_lock_the_key_even_for_the_right_one_and_end_its_session(office):
    await office.factors.admit("k1", office.code, PEER)
    reasons = [await office.refused(wrong) for wrong in ("000000", "abc", "1234567")]
    assert reasons == ["SECOND_FACTOR_REQUIRED", "SECOND_FACTOR_REQUIRED", "LOCKED_OUT"]
    office.now += 60
    assert await office.refused(office.code, office.another()) == "LOCKED_OUT"
    assert await office.refused() == "LOCKED_OUT"
    office.now += 300
    assert await office.refused() == "SECOND_FACTOR_REQUIRED"
    await office.factors.admit("k1", office.code, PEER)


async def test_a_right_code_forgives_the_wrong_ones_before(office):
    for _ in range(4):
        await office.refused("000000")
        await office.factors.admit("k1", office.code, PEER)
        office.now += 30


async def test_a_locked_key_can_be_unlocked(office):
    for _ in range(3):
        await office.refused("000000")
    await office.factors.unlock("k1")
    await office.factors.admit("k1", office.code, PEER)
    with pytest.raises(NotFound):
        await office.factors.unlock("k2")


async def test_a_new_device_replaces_the_old_one(office):
    old = office.code
    office.uri = await office.factors.enrol("k1", "k1")
    assert await office.refused(old) == "SECOND_FACTOR_REQUIRED"
    await office.factors.admit("k1", office.code, PEER)


async def test_the_secret_does_not_stand_in_the_store(office):
    secret = office.uri.partition("secret=")[2].partition("&")[0]
    assert secret not in str(await office.store.list(""))
    with pytest.raises(DataLoss):
        await office.another(b"o" * 32).admit("k1", office.code, PEER)


async def test_a_forgotten_key_has_no_session(office):
    await office.factors.admit("k1", office.code, PEER)
    await office.factors.forget("k1")
    assert await office.refused() == "SECOND_FACTOR_REQUIRED"

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltbot_gateway.quota import ProcessBuckets, Quotas
from moltbot_gateway.settings import TenantLimits
from moltbot_mesh.errors import ResourceExhausted


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotas(clock) -> Quotas:
    return Quotas(ProcessBuckets(clock))


async def admitted(quotas: Quotas, limits: TenantLimits, tenant: str = "a", tokens: int = 0) -> int:
    """How many requests go through until one is refused."""
    for count in range(10_000):
        try:
            await quotas.admit(tenant, limits, tokens)
        except ResourceExhausted:
            return count
    return 10_000


async def test_a_minutes_worth_may_come_at_once_and_no_more(quotas):
    assert await admitted(quotas, TenantLimits(requests_per_minute=10)) == 10


async def test_no_limit_is_no_limit(quotas):
    assert await admitted(quotas, TenantLimits(), tokens=10**9) == 10_000


async def test_it_refills_evenly(quotas, clock):
    limits = TenantLimits(requests_per_minute=10)
    await admitted(quotas, limits)
    clock.now_s += 5.9
    assert await admitted(quotas, limits) == 0
    clock.now_s += 0.2
    assert await admitted(quotas, limits) == 1
    clock.now_s += 1e6
    assert await admitted(quotas, limits) == 10


async def test_a_refusal_says_when_it_will_do(quotas, clock):
    limits = TenantLimits(requests_per_minute=10)
    await admitted(quotas, limits)
    with pytest.raises(ResourceExhausted) as raised:
        await quotas.admit("a", limits, 0)
    error = raised.value
    assert (error.reason, error.metadata) == ("QUOTA_EXCEEDED", {"tenant": "a"})
    assert error.retry_after_s == pytest.approx(6.0)
    clock.now_s += error.retry_after_s
    await quotas.admit("a", limits, 0)


async def test_tenants_do_not_share(quotas):
    limits = TenantLimits(requests_per_minute=2)
    assert await admitted(quotas, limits, "a") == 2
    assert await admitted(quotas, limits, "b") == 2


async def test_tokens_used_beyond_the_estimate_delay_the_next_request(quotas, clock):
    limits = TenantLimits(tokens_per_minute=600)
    await quotas.admit("a", limits, 100)
    await quotas.settle("a", limits, charged=100, used=1300)
    with pytest.raises(ResourceExhausted) as raised:
        await quotas.admit("a", limits, 1)
    assert raised.value.retry_after_s == pytest.approx((1301 - 600) / 10)
    clock.now_s += raised.value.retry_after_s
    await quotas.admit("a", limits, 1)


async def test_a_prompt_larger_than_a_minutes_worth_waits_for_a_full_bucket(quotas, clock):
    limits = TenantLimits(tokens_per_minute=100)
    await quotas.admit("a", limits, 50)
    with pytest.raises(ResourceExhausted) as raised:
        await quotas.admit("a", limits, 250)
    clock.now_s += raised.value.retry_after_s or 0
    await quotas.admit("a", limits, 250)


async def test_a_refusal_for_tokens_does_not_cost_a_request(quotas, clock):
    limits = TenantLimits(requests_per_minute=3, tokens_per_minute=100)
    await quotas.admit("a", limits, 100)
    assert await admitted(quotas, limits, tokens=100) == 0
    assert await admitted(quotas, TenantLimits(requests_per_minute=3)) == 2


async def test_what_is_given_back_can_be_used_and_nothing_beyond_it(quotas, clock):
    limits = TenantLimits(requests_per_minute=10, tokens_per_minute=100)
    await quotas.admit("a", limits, 60)
    await quotas.refund("a", limits, 60)
    assert await admitted(quotas, limits, tokens=10) == 10
    clock.now_s += 120
    await quotas.refund("a", limits, 60)
    assert await admitted(quotas, limits, tokens=10) == 10


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50)), max_size=80),
)
def test_in_no_span_of_time_is_more_taken_than_a_bucket_and_its_refill(per_minute, steps):
    async def run() -> None:
        clock = Clock()
        buckets = ProcessBuckets(clock)
        taken: list[tuple[float, int]] = []
        for pause_s, amount in steps:
            clock.now_s += pause_s
            amount = min(amount, per_minute)  # noqa: PLW2901 - what fits the bucket
            wait_s = await buckets.take("x", amount, per_minute)
            assert wait_s >= 0
            if wait_s:
                assert wait_s <= 60.0 + 1e-6
            else:
                taken.append((clock.now_s, amount))
        for index, (start_s, _) in enumerate(taken):
            total = 0
            for at_s, amount in taken[index:]:
                total += amount
                assert total <= per_minute * (1 + (at_s - start_s) / 60) + 1e-6 * per_minute + 1e-6

    asyncio.run(run())


@given(st.integers(1, 1000), st.integers(0, 2000), st.integers(1, 50))
def test_what_was_refused_goes_through_after_the_wait_it_was_told(per_minute, used, amount):
    async def run() -> None:
        clock = Clock()
        buckets = ProcessBuckets(clock)
        await buckets.charge("x", used, per_minute)
        wait_s = await buckets.take("x", amount, per_minute)
        if wait_s:
            clock.now_s += wait_s + 1e-6
            assert await buckets.take("x", amount, per_minute) == 0

    asyncio.run(run())

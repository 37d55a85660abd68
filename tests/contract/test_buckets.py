"""What every place that counts use does, with Redis' own server where that place is Redis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from moltbot_gateway.adapters.redis_buckets import RedisBuckets
from moltbot_gateway.quota import ProcessBuckets
from moltbot_testkit.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moltbot_gateway.quota import Buckets


@pytest.fixture(params=["process", "redis"])
async def buckets(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator[Buckets]:
    if request.param == "process":
        yield ProcessBuckets()
        return
    with RedisServer(tmp_path, durable=False) as server:
        found = RedisBuckets(server.url, fail_closed=True)
        try:
            yield found
        finally:
            await found.aclose()


async def test_a_bucket_gives_a_minutes_worth_and_then_says_how_long_to_wait(buckets: Buckets) -> None:
    assert [await buckets.take("x", 1, 2) for _ in range(2)] == [0, 0]
    assert 25 < await buckets.take("x", 1, 2) <= 30


async def test_a_charge_overdraws(buckets: Buckets) -> None:
    await buckets.charge("x", 200, 100)
    assert 55 < await buckets.take("x", 1, 100) <= 61


async def test_what_is_given_back_can_be_taken_again(buckets: Buckets) -> None:
    assert await buckets.take("x", 3, 3) == 0
    await buckets.give_back("x", 3, 3)
    assert await buckets.take("x", 3, 3) == 0
    assert await buckets.take("x", 1, 3) > 0


async def test_more_than_was_taken_does_not_overfill_a_bucket(buckets: Buckets) -> None:
    await buckets.give_back("x", 1000, 3)
    await asyncio.sleep(0.01)
    assert await buckets.take("x", 3, 3) == 0
    assert await buckets.take("x", 1, 3) > 0

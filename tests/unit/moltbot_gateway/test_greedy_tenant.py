"""A tenant that takes all it can get, and lets go of nothing."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from moltbot_gateway.fair_queue import FairQueue
from moltbot_mesh.errors import ResourceExhausted


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def greedy(queue, requests):
    """Requests of one tenant, each of which keeps its place while the context is open."""

    async def hold():
        async with queue.place("greedy", 1.0):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(hold()) for _ in range(requests)]
    await settle()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_there_is_a_place_for_everybody_else():
    queue = FairQueue(16, 64, 0.05)
    async with greedy(queue, 200):
        assert queue.in_flight == 14
        async with queue.place("a", 1.0), queue.place("b", 1.0):
            assert queue.in_flight == 16
    assert (queue.in_flight, queue.waiting) == (0, 0)


async def test_there_is_room_in_the_queue_for_everybody_else():
    queue = FairQueue(8, 8, 5.0)
    async with greedy(queue, 100), queue.place("a", 1.0):
        assert (queue.in_flight, queue.waiting) == (8, 7)
        with pytest.raises(ResourceExhausted):
            async with queue.place("greedy", 1.0):
                pytest.fail("admitted")
        waits = asyncio.create_task(queue.place("b", 1.0).__aenter__())
        await settle()
        assert (waits.done(), queue.waiting) == (False, 8)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)


async def test_its_own_requests_go_on_as_its_places_become_free():
    queue = FairQueue(8, 64, 5.0)
    async with greedy(queue, 20) as tasks:
        assert (queue.in_flight, queue.waiting) == (7, 13)
        for task in tasks[:3]:
            task.cancel()
        await settle()
        assert (queue.in_flight, queue.waiting) == (7, 10)


async def test_the_place_of_another_goes_to_the_next_other_past_those_that_may_not_have_it():
    queue = FairQueue(8, 64, 5.0)
    async with greedy(queue, 20):
        place = queue.place("a", 1.0)
        await place.__aenter__()
        following = queue.place("b", 1.0)
        waits = asyncio.create_task(following.__aenter__())
        await settle()
        assert not waits.done()
        await place.__aexit__(None, None, None)
        await settle()
        assert waits.done()
        assert queue.in_flight == 8
        await following.__aexit__(None, None, None)

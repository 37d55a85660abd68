from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moltbot_gateway.fair_queue import FairQueue
from moltbot_mesh.errors import ResourceExhausted


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Requests:
    """Requests that hold a place until they are told to leave, and the order in which they got it."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue = queue
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def hold(self, tenant: str, weight: float, leave: asyncio.Event) -> None:
        async with self.queue.place(tenant, weight):
            self.order.append(tenant)
            await leave.wait()

    async def come(self, tenant: str, weight: float = 1.0) -> asyncio.Event:
        leave = asyncio.Event()
        self.tasks.append(asyncio.create_task(self.hold(tenant, weight, leave)))
        await settle()
        return leave

    async def drain(self, first: asyncio.Event, rest: list[asyncio.Event]) -> None:
        for event in rest:
            event.set()
        first.set()
        await asyncio.gather(*self.tasks)


async def test_a_free_place_is_given_at_once():
    queue = FairQueue(2, 0, 1.0)
    async with queue.place("a", 1), queue.place("a", 1):
        assert (queue.in_flight, queue.waiting) == (2, 0)
    assert queue.in_flight == 0


async def test_no_more_run_than_there_are_places():
    queue = FairQueue(3, 100, 5.0)
    most = 0

    async def one() -> None:
        nonlocal most
        async with queue.place("a", 1):
            most = max(most, queue.in_flight)
            await asyncio.sleep(0.001)

    await asyncio.gather(*(one() for _ in range(40)))
    assert (most, queue.in_flight, queue.waiting) == (3, 0, 0)


async def test_a_full_queue_refuses_and_says_when_to_come_back():
    queue = FairQueue(1, 1, 1.0)
    requests = Requests(queue)
    first, second = await requests.come("a"), await requests.come("a")
    with pytest.raises(ResourceExhausted) as raised:
        async with queue.place("b", 1):
            pytest.fail("admitted")
    assert (raised.value.reason, raised.value.retry_after_s) == ("OVERLOADED", 1.0)
    await requests.drain(first, [second])


async def test_who_waits_too_long_is_refused_and_leaves_no_trace():
    queue = FairQueue(1, 4, 0.02)
    async with queue.place("a", 1):
        with pytest.raises(ResourceExhausted, match="no place became free"):
            async with queue.place("b", 1):
                pytest.fail("admitted")
        assert queue.waiting == 0
    assert queue.in_flight == 0


async def test_a_tenant_with_many_requests_delays_anothers_first_by_one_place():
    requests = Requests(FairQueue(1, 1000, 5.0))
    first = await requests.come("x")
    waiting = [await requests.come("many") for _ in range(50)]
    waiting.append(await requests.come("one"))
    await requests.drain(first, waiting)
    assert requests.order.index("one") <= 2


async def test_places_are_shared_by_weight():
    requests = Requests(FairQueue(1, 1000, 5.0))
    first = await requests.come("x")
    waiting = [
        await requests.come(tenant, weight) for _ in range(60) for tenant, weight in (("heavy", 3.0), ("light", 1.0))
    ]
    await requests.drain(first, waiting)
    served = requests.order[1:41]
    assert 28 <= served.count("heavy") <= 32


async def test_one_tenants_requests_are_served_in_the_order_they_came():
    queue = FairQueue(1, 100, 5.0)
    order: list[int] = []

    async def one(number: int) -> None:
        async with queue.place("a", 1):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(one(number) for number in range(20)))
    assert order == list(range(20))


async def test_who_leaves_while_waiting_gives_its_turn_to_the_next():
    requests = Requests(FairQueue(1, 10, 5.0))
    first, _, last = await requests.come("a"), await requests.come("b"), await requests.come("c")
    requests.tasks[1].cancel()
    await settle()
    assert requests.queue.waiting == 1
    last.set()
    first.set()
    await asyncio.gather(*requests.tasks, return_exceptions=True)
    assert (requests.order, requests.queue.in_flight, requests.queue.waiting) == (["a", "c"], 0, 0)


async def test_a_place_given_to_who_leaves_in_the_same_moment_is_not_lost():
    requests = Requests(FairQueue(1, 10, 5.0))
    first, _ = await requests.come("a"), await requests.come("b")
    first.set()
    requests.tasks[0].add_done_callback(lambda _: requests.tasks[1].cancel())
    await settle()
    await asyncio.gather(*requests.tasks, return_exceptions=True)
    assert (requests.queue.in_flight, requests.queue.waiting) == (0, 0)


async def test_who_comes_while_another_is_leaving_finds_the_free_place():
    queue = FairQueue(1, 10, 10.0)
    await queue._acquire("a", 1)
    waiting = asyncio.create_task(queue._acquire("b", 1))
    await settle()
    waiting.cancel()
    queue._release("a")  # before the one that waits has learnt that it was cancelled
    async with asyncio.timeout(5):
        await queue._acquire("c", 1)
    assert queue.in_flight == 1
    queue._release("c")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (queue.in_flight, queue.waiting) == (0, 0)


async def test_who_gave_up_takes_no_memory():
    queue = FairQueue(1, 10, 60.0)
    async with queue.place("a", 1):
        for _ in range(1000):
            task = asyncio.create_task(queue._acquire("b", 1))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert len(queue._waiting) < 100
        assert queue.waiting == 0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["leave", "cancel", "cancel soon"])), max_size=25),
)
def test_no_place_is_ever_lost_or_given_twice(places, plan):
    async def run() -> None:
        queue = FairQueue(places, 100, 5.0)

        async def one(tenant: str) -> None:
            async with queue.place(tenant, 1):
                assert queue.in_flight <= places
                await asyncio.sleep(0)

        tasks = []
        for tenant, way in plan:
            task = asyncio.create_task(one(tenant))
            tasks.append(task)
            if way == "cancel soon":
                await asyncio.sleep(0)
            if way != "leave":
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (queue.in_flight, queue.waiting) == (0, 0)

    asyncio.run(run())

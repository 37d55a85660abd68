"""Who gave up waiting has had no service, and pays for none."""

from __future__ import annotations

import asyncio

from moltbot_gateway.fair_queue import FairQueue


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Crowd:
    """Requests that hold a place for a moment each, and the order in which they got it."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue = queue
        self.order: list[str] = []
        self.go = asyncio.Event()

    async def come(self, tenant: str, weight: float = 1.0) -> asyncio.Task[None]:
        async def hold() -> None:
            async with self.queue.place(tenant, weight):
                self.order.append(tenant)
                await self.go.wait()

        task = asyncio.create_task(hold())
        await settle()
        return task


async def test_a_tenant_whose_requests_gave_up_is_served_in_its_turn_again():
    crowd = Crowd(FairQueue(1, 1000, 5.0))
    tasks = [await crowd.come("holder")]
    left = [await crowd.come("unlucky") for _ in range(100)]
    tasks += [await crowd.come("busy") for _ in range(20)]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    tasks.append(await crowd.come("unlucky"))
    crowd.go.set()
    await asyncio.gather(*tasks)
    assert crowd.order.index("unlucky") <= 3


async def test_a_tenant_at_its_limit_is_passed_over_without_a_look_at_all_its_requests():
    queue = FairQueue(8, 800, 5.0)
    crowd = Crowd(queue)
    tasks = [await crowd.come("hog") for _ in range(7 + 700)]
    assert (queue.in_flight, queue.waiting) == (7, 700)
    looks = 0

    class Counting(int):
        def __ge__(self, other):
            nonlocal looks
            looks += 1
            return int(self) >= other

    queue._held["hog"] = Counting(queue._held["hog"])
    async with queue.place("other", 1.0):
        pass
    assert looks <= 2
    queue._held["hog"] = int(queue._held["hog"])
    crowd.go.set()
    await asyncio.gather(*tasks)
    assert (queue.in_flight, queue.waiting) == (0, 0)


async def test_a_queue_that_only_gives_up_keeps_nothing():
    queue = FairQueue(1, 100_000, 5.0)
    async with queue.place("holder", 1.0):
        for number in range(50):
            waiting = [asyncio.create_task(queue._acquire(f"tenant-{number}", 1.0)) for _ in range(20)]
            await settle()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        assert queue.waiting == 0
        assert len(queue._lines) == 0
        assert len(queue._waiting) < 200

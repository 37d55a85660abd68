from __future__ import annotations

import asyncio
import time

import pytest

from moltbot_gateway.coalesce import Coalescer
from moltbot_mesh.errors import Unavailable


class Source:
    """Gives items when told, and remembers whether it was closed."""

    def __init__(self, *items: object, then: BaseException | None = None, endless: bool = False) -> None:
        self.items, self.then, self.endless = items, then, endless
        self.closed = False
        self.given = 0

    async def __call__(self):
        try:
            for item in self.items:
                if isinstance(item, float):
                    await asyncio.sleep(item)
                else:
                    self.given += 1
                    yield item
            if self.then is not None:
                raise self.then
            while self.endless:
                self.given += 1
                yield self.given
                if self.given % 64 == 0:
                    await asyncio.sleep(0)
        finally:
            self.closed = True


async def batches(source: Source, interval_s: float = 0.05) -> list[list[object]]:
    return [batch async for batch in Coalescer(source(), interval_s).batches()]


async def test_the_first_goes_out_at_once_and_what_comes_close_after_it_together():
    found = await batches(Source("a", 0.01, "b", 0.01, "c", 0.01, "d"), 2.0)
    assert found == [["a"], ["b", "c", "d"]]


async def test_the_first_does_not_wait_for_the_interval():
    started = time.monotonic()
    async for batch in Coalescer(Source("a", 5.0)(), 50.0).batches():
        assert batch == ["a"]
        assert time.monotonic() - started < 4
        break


async def test_what_comes_slowly_goes_out_one_by_one():
    assert await batches(Source("a", 0.03, "b", 0.03, "c"), 0.001) == [["a"], ["b"], ["c"]]


async def test_the_end_does_not_wait_for_the_interval():
    started = time.monotonic()
    assert await batches(Source("a", 0.01, "b", 0.01, "c"), 30.0) == [["a"], ["b", "c"]]
    assert time.monotonic() - started < 10


async def test_an_empty_source_gives_nothing():
    assert await batches(Source()) == []


async def test_nothing_is_lost_or_reordered():
    found = await batches(Source(*range(5000)), 0.001)
    assert [item for batch in found for item in batch] == list(range(5000))
    assert all(found)


async def test_an_error_comes_after_all_items_before_it():
    seen: list[object] = []
    with pytest.raises(Unavailable):  # noqa: PT012 - what came before the error is the point
        async for batch in Coalescer(Source("a", "b", then=Unavailable("gone"))(), 0.01).batches():
            seen.extend(batch)
    assert seen == ["a", "b"]


async def test_a_consumer_that_stops_closes_the_source():
    source = Source("a", 60.0)
    found = Coalescer(source(), 0.01).batches()
    await anext(found)
    await found.aclose()
    assert source.closed


async def test_a_consumer_that_is_cancelled_closes_the_source():
    source = Source("a", 60.0)
    task = asyncio.create_task(batches(source))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed


async def test_a_slow_consumer_stops_the_source_and_closes_it_there():
    source = Source(endless=True)
    found = Coalescer(source(), 0.0).batches()
    await anext(found)
    await asyncio.sleep(0.05)
    given = source.given
    await asyncio.sleep(0.02)
    assert source.given == given < 4096
    await found.aclose()
    assert source.closed, "also where it does not wait for the model but for the consumer"


async def test_an_error_nobody_asks_for_is_no_noise(recwarn):
    loop = asyncio.get_running_loop()
    noise: list[object] = []
    loop.set_exception_handler(lambda _, context: noise.append(context))
    found = Coalescer(Source("a", then=Unavailable("gone"))(), 0.01).batches()
    await anext(found)
    await asyncio.sleep(0.01)
    await found.aclose()
    del found
    await asyncio.sleep(0)
    assert noise == []

from __future__ import annotations

import asyncio

import pytest

from moltbot_mesh.errors import NotFound
from moltbot_mesh.together import all_of, together


async def give(value, after_s: float = 0.0):
    await asyncio.sleep(after_s)
    return value


async def fail(error: BaseException):
    await asyncio.sleep(0)
    raise error


async def test_results_come_in_the_order_of_the_work_and_not_of_its_end():
    assert await together(give(1, 0.02), give("b"), give(None)) == (1, "b", None)
    assert await all_of(*(give(n, 0.01 * (3 - n)) for n in range(4))) == [0, 1, 2, 3]
    assert await all_of() == []


async def test_the_first_failure_comes_alone_and_stops_the_others():
    stopped = asyncio.Event()

    async def endless():
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    error = NotFound("no")
    with pytest.raises(NotFound) as raised:
        await together(endless(), fail(error))
    assert raised.value is error
    assert stopped.is_set()


async def test_a_failure_of_another_while_it_is_stopped_does_not_hide_the_first():
    async def stubborn():
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError

    with pytest.raises(NotFound):
        await together(stubborn(), fail(NotFound("no")))


async def test_cancelling_reaches_all():
    stopped = 0

    async def endless():
        nonlocal stopped
        try:
            await asyncio.sleep(60)
        finally:
            stopped += 1

    task = asyncio.create_task(together(endless(), endless()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped == 2

from __future__ import annotations

import asyncio
import threading

import pytest

from moltbot_mesh.errors import ResourceExhausted
from moltbot_watermark.lane import Lane


async def test_work_runs_in_the_order_in_which_it_came() -> None:
    lane = Lane("test", 100)
    done: list[int] = []
    await asyncio.gather(*(lane.run(done.append, number) for number in range(50)))
    await lane.close()
    assert done == list(range(50))


async def test_an_error_reaches_its_caller() -> None:
    lane = Lane("test", 1)
    with pytest.raises(ZeroDivisionError):
        await lane.run(lambda: 1 // 0)
    await lane.close()


async def test_more_than_may_wait_is_refused_also_when_callers_have_gone() -> None:
    lane = Lane("test", 2)
    gate = threading.Event()
    gone = asyncio.create_task(lane.run(gate.wait))
    waiting = asyncio.create_task(lane.run(gate.wait))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(ResourceExhausted) as caught:
        await lane.run(gate.wait)
    assert caught.value.reason == "OVERLOADED"
    gate.set()
    assert await waiting
    assert await lane.run(gate.wait)
    await lane.close()

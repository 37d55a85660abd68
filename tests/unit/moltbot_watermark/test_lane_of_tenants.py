"""A tenant with many slow calls."""

from __future__ import annotations

import asyncio
import threading

import pytest

from moltbot_mesh.errors import ResourceExhausted
from moltbot_watermark.lane import Lane


@pytest.fixture
async def lane():
    lane = Lane("test", 1000)
    yield lane
    await lane.close()
    assert not lane._turns


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_another_waits_for_one_of_them(lane):
    gate, done = threading.Event(), []
    first = asyncio.create_task(lane.run_for("many", gate.wait))
    await settle()
    rest = [asyncio.create_task(lane.run_for("many", done.append, "many")) for _ in range(20)]
    await settle()
    other = asyncio.create_task(lane.run_for("one", done.append, "one"))
    await settle()
    gate.set()
    await asyncio.gather(first, other, *rest)
    assert done == ["one"] + ["many"] * 20


async def test_calls_that_were_given_up_do_not_pile_up_in_the_lane(lane):
    gate = threading.Event()
    for _ in range(20):
        call = asyncio.create_task(lane.run_for("many", gate.wait))
        await settle()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert lane._waiting == 1
    gate.set()


async def test_too_many_are_refused_and_nobody_elses(lane):
    gate = threading.Event()
    calls = [asyncio.create_task(lane.run_for("many", gate.wait)) for _ in range(32)]
    await settle()
    with pytest.raises(ResourceExhausted) as raised:
        await lane.run_for("many", gate.wait)
    assert raised.value.reason == "OVERLOADED"
    other = asyncio.create_task(lane.run_for("one", gate.wait))
    await settle()
    gate.set()
    assert all(await asyncio.gather(other, *calls))

from __future__ import annotations

import asyncio

import pytest

from moltbot_models.engine import EngineError
from moltbot_models.engine.aio import merged, stream
from moltbot_models.generation import Delta, GenerationRequest, Sampling, ToolCallDelta, Usage
from moltbot_testkit.engine import Halts


def request(**sampling):
    return GenerationRequest("m", prompt="go", sampling=Sampling(ignore_eos=True, **sampling))


async def drained(engine):
    async with asyncio.timeout(10):
        while engine.stats().running or engine.stats().waiting:
            await asyncio.sleep(0.005)


async def test_deltas_arrive_and_the_last_one_says_why_it_ended(engine):
    deltas = [delta async for delta in stream(engine, request(max_tokens=20))]
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == "length"
    assert deltas[-1].usage.completion_tokens == 20


async def test_a_slow_consumer_gets_few_large_deltas(engine):
    deltas = []
    async for delta in stream(engine, request(max_tokens=60, logprobs=True)):
        deltas.append(delta)
        await asyncio.sleep(0.2)
    assert sum(len(delta.logprobs) for delta in deltas) == 60
    assert len(deltas) < 20


async def test_a_consumer_that_stops_cancels_its_request(engine):
    deltas = stream(engine, request(max_tokens=500, logprobs=True))
    await anext(deltas)
    await deltas.aclose()
    await drained(engine)


async def test_a_cancelled_task_cancels_its_request(engine):
    async def consume(halts):
        async for _ in stream(engine, request(max_tokens=500), hook=halts):
            pass

    for delay_s in (0, 0.001, None):
        halts = Halts()
        task = asyncio.create_task(consume(halts))
        if delay_s is None:
            assert await asyncio.to_thread(halts.reached.wait, 30)
        else:
            await asyncio.sleep(delay_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        halts.go.set()
    await drained(engine)


async def test_a_refusal_reaches_the_consumer(engine):
    with pytest.raises(EngineError) as refused:
        await anext(stream(engine, GenerationRequest("m", prompt="g" * 1000)))
    assert refused.value.reason == "REQUEST_TOO_LARGE"


async def test_a_failure_on_the_way_reaches_the_consumer(engine):
    class Broken:
        def alter(self, logits, contexts):
            if contexts[0].output_tokens:
                raise RuntimeError("no")

        def choose(self, candidates, contexts):
            return [None]

    with pytest.raises(EngineError) as failed:
        _ = [delta async for delta in stream(engine, request(max_tokens=20), hook=Broken())]
    assert failed.value.reason == "ENGINE_FAILED"


def test_merged_deltas_say_the_same():
    pieces = [
        Delta("a", (ToolCallDelta(0, "call_1", "add"),)),
        Delta("b", (ToolCallDelta(0, arguments="{"), ToolCallDelta(1, "call_2", "sub"))),
        Delta("", (ToolCallDelta(0, arguments="}"),), (), "tool_calls", Usage(1, 2)),
    ]
    assert merged(pieces) == Delta(
        "ab",
        (ToolCallDelta(0, "call_1", "add", "{}"), ToolCallDelta(1, "call_2", "sub")),
        (),
        "tool_calls",
        Usage(1, 2),
    )

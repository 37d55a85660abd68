"""What a request that did not end well costs its tenant, and what it says of the model."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from moltbot_gateway.failover import Failover
from moltbot_gateway.settings import GatewaySettings
from moltbot_mesh.errors import DeadlineExceeded, MoltbotError, Unavailable
from moltbot_models.generation import Delta, EmbeddingRequest, Embeddings, GenerationRequest, Message, Usage

REQUEST = GenerationRequest("", (Message("user", "x" * 40),))


@pytest.fixture
def failover(pool):
    return Failover(GatewaySettings(), pool)


async def test_an_answer_that_the_client_leaves_half_way_is_counted_as_far_as_it_went(failover, pool, exchange):
    pool.add("a", [Delta("y" * 80), Delta("z" * 80), 5.0])
    exchange.deadline_s = time.monotonic() + 5
    async with contextlib.aclosing(failover.generate(exchange, ["a"], REQUEST, stream=True)) as pieces:
        await anext(pieces)
        await anext(pieces)
    assert exchange.usage == Usage(10, 40)
    assert pool.told[-1] == ("a", "neutral")


async def test_an_answer_that_the_upstream_breaks_off_is_counted_as_far_as_it_went(failover, pool, exchange):
    pool.add("a", [Delta("y" * 80), Unavailable("broke")])
    exchange.deadline_s = time.monotonic() + 5
    with pytest.raises(MoltbotError, match="broke"):
        async for _ in failover.generate(exchange, ["a"], REQUEST, stream=True):
            pass
    assert exchange.usage == Usage(10, 20)
    assert exchange.attempts[-1].usage == Usage(10, 20)


async def test_a_model_that_said_nothing_costs_nothing(failover, pool, exchange):
    pool.add("a", [Unavailable("down")])
    pool.add("b", [Delta("y" * 4, finish_reason="stop", usage=Usage(3, 1))])
    exchange.deadline_s = time.monotonic() + 5
    async for _ in failover.generate(exchange, ["a", "b"], REQUEST, stream=True):
        pass
    assert exchange.usage == Usage(3, 1)


async def test_a_client_in_a_hurry_says_nothing_of_the_model(failover, pool, exchange):
    pool.add("a", [5.0])
    exchange.caller = _hurried(exchange.caller)
    exchange.deadline_s = exchange.caller.deadline_monotonic_s
    with pytest.raises(DeadlineExceeded):
        async for _ in failover.generate(exchange, ["a"], REQUEST, stream=True):
            pass
    assert pool.told == [("a", "started"), ("a", "neutral")]


async def test_a_hurried_embedding_says_nothing_of_the_model(failover, pool, exchange):
    pool.add("a", [5.0])
    exchange.caller = _hurried(exchange.caller)
    exchange.deadline_s = exchange.caller.deadline_monotonic_s
    with pytest.raises(DeadlineExceeded):
        await failover.embed(exchange, ["a"], EmbeddingRequest("", ("x",)))
    assert pool.told == [("a", "started"), ("a", "neutral")]


async def test_a_model_that_outlasts_the_meshs_own_limit_has_failed(failover, pool, exchange):
    pool.add("a", [5.0])
    exchange.deadline_s = time.monotonic() + 0.02
    with pytest.raises(DeadlineExceeded):
        async for _ in failover.generate(exchange, ["a"], REQUEST, stream=True):
            pass
    assert pool.told == [("a", "started"), ("a", "failed")]


async def test_embeddings_that_the_upstream_does_not_count_are_estimated(failover, pool, exchange):
    pool.add("a", [Embeddings(((1.0,),), Usage())])
    exchange.deadline_s = asyncio.get_running_loop().time() + 5
    await failover.embed(exchange, ["a"], EmbeddingRequest("", ("x" * 40,)))
    assert exchange.usage == Usage(10)


def _hurried(caller):
    return type(caller)(
        caller.principal, caller.trace, caller.request_id, caller.action, caller.peer, time.monotonic() + 0.02
    )

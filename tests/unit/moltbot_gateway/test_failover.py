from __future__ import annotations

import time

import pytest

from moltbot_gateway.failover import Failover, monotonic_deadline
from moltbot_gateway.settings import GatewaySettings
from moltbot_mesh.errors import DeadlineExceeded, Internal, InvalidArgument, ResourceExhausted, Unavailable
from moltbot_models.generation import Delta, EmbeddingRequest, Embeddings, GenerationRequest, Message, Sampling, Usage

END = Delta(finish_reason="stop", usage=Usage(3, 2))
DOWN = Unavailable("down", retry_after_s=3.0)
REQUEST = GenerationRequest("", (Message("user", "hello"),))


@pytest.fixture
def failover(pool) -> Failover:
    return Failover(GatewaySettings(max_attempts=3, default_max_tokens=100), pool)


async def answer(failover, exchange, *models: str, request: GenerationRequest = REQUEST) -> str:
    return "".join(
        [d.text async for deltas in failover.generate(exchange, models, request, stream=True) for d in deltas]
    )


async def test_the_first_model_answers(failover, pool, exchange):
    upstream = pool.add("a", [Delta("he"), Delta("llo"), END])
    assert await answer(failover, exchange, "a", "b") == "hello"
    assert (exchange.model, exchange.usage) == ("a", Usage(3, 2))
    assert pool.told == [("a", "started"), ("a", "ok")]
    assert [(a.model, a.outcome) for a in exchange.attempts] == [("a", "success")]
    assert upstream.requests[0].model == "a-upstream"
    assert upstream.closed == 1


@pytest.mark.parametrize(
    "failure",
    [[DOWN], [Delta(""), DOWN], [ResourceExhausted("busy")], [Internal("oops")], [], [DeadlineExceeded("slow")]],
    ids=["at once", "after an empty piece", "busy", "a defect", "breaks off", "slow"],
)
async def test_the_next_answers_while_nothing_has_gone_out(failover, pool, exchange, failure):
    pool.add("a", failure)
    pool.add("b", [Delta("hello"), END])
    assert await answer(failover, exchange, "a", "b") == "hello"
    assert exchange.model == "b"
    assert pool.told == [("a", "started"), ("a", "failed"), ("b", "started"), ("b", "ok")]
    assert [(a.model, a.outcome) for a in exchange.attempts] == [("a", "failed"), ("b", "success")]


async def test_a_model_that_just_left_the_table_is_passed_over(failover, pool, exchange):
    pool.add("b", [Delta("hello"), END])
    assert await answer(failover, exchange, "gone", "b") == "hello"


async def test_after_the_first_token_no_other_model_goes_on(failover, pool, exchange):
    pool.add("a", [Delta("he"), DOWN])
    other = pool.add("b", [Delta("llo"), END])
    pieces = failover.generate(exchange, ["a", "b"], REQUEST, stream=True)
    assert (await anext(pieces))[0].text == "he"
    with pytest.raises(Unavailable, match="down"):
        await anext(pieces)
    assert other.requests == []
    assert pool.told[-1] == ("a", "failed")


async def test_an_answer_that_breaks_off_after_its_first_token_is_an_error(failover, pool, exchange):
    pool.add("a", [Delta("he")])
    with pytest.raises(Unavailable, match="broke off"):
        await answer(failover, exchange, "a")


async def test_a_request_that_is_wrong_is_wrong_for_every_model(failover, pool, exchange):
    pool.add("a", [InvalidArgument("no")])
    other = pool.add("b", [END])
    with pytest.raises(InvalidArgument):
        await answer(failover, exchange, "a", "b")
    assert other.requests == []
    assert pool.told == [("a", "started"), ("a", "neutral")]


async def test_when_nobody_can_the_error_tells_of_each_and_when_to_retry(failover, pool, exchange):
    pool.add("a", [DOWN])
    pool.add("b", [ResourceExhausted("busy", retry_after_s=1.0)])
    with pytest.raises(Unavailable) as raised:
        await answer(failover, exchange, "a", "b")
    assert "down; busy" in raised.value.message
    assert (raised.value.reason, raised.value.retry_after_s) == ("UPSTREAM_UNAVAILABLE", 1.0)


async def test_a_single_failure_comes_as_it_is(failover, pool, exchange):
    pool.add("a", [DOWN])
    with pytest.raises(Unavailable) as raised:
        await answer(failover, exchange, "a")
    assert raised.value is DOWN


async def test_no_more_models_are_asked_than_is_set(failover, pool, exchange):
    for model in "abcd":
        pool.add(model, [DOWN])
    with pytest.raises(Unavailable):
        await answer(failover, exchange, *"abcd")
    assert [attempt.model for attempt in exchange.attempts] == ["a", "b", "c"]


async def test_when_the_time_is_out_nobody_else_is_asked(failover, pool, exchange):
    slow = pool.add("a", [60.0, END])
    other = pool.add("b", [END])
    exchange.deadline_s = time.monotonic() + 0.05
    with pytest.raises(DeadlineExceeded):
        await answer(failover, exchange, "a", "b")
    assert (slow.closed, other.requests) == (1, [])
    assert pool.told == [("a", "started"), ("a", "failed")]


async def test_a_client_that_leaves_stops_the_model_and_says_nothing_of_it(failover, pool, exchange):
    upstream = pool.add("a", [Delta("he"), 60.0, END])
    pieces = failover.generate(exchange, ["a"], REQUEST, stream=True)
    await anext(pieces)
    await pieces.aclose()
    assert upstream.closed == 1
    assert pool.told == [("a", "started"), ("a", "neutral")]
    assert [attempt.outcome for attempt in exchange.attempts] == ["cancelled"]


async def test_tokens_nobody_counted_are_estimated(failover, pool, exchange):
    pool.add("a", [Delta("x" * 40), Delta(finish_reason="stop")])
    await answer(failover, exchange, "a")
    assert exchange.usage == Usage(2, 10)


@pytest.mark.parametrize(
    ("wanted", "most", "found"), [(None, 0, 100), (None, 50, 50), (80, 50, 50), (80, 0, 80), (None, 500, 100)]
)
async def test_the_token_limit_is_the_least_of_what_is_wanted_and_what_is_there(
    failover, pool, exchange, wanted, most, found
):
    upstream = pool.add("a", [END], max_tokens=most)
    request = GenerationRequest("", REQUEST.messages, sampling=Sampling(max_tokens=wanted))
    await answer(failover, exchange, "a", request=request)
    assert upstream.requests[0].sampling.max_tokens == found


async def test_embedding_goes_to_the_next_too(failover, pool, exchange):
    found = Embeddings(((1.0,),), Usage(2))
    pool.add("a", [DOWN])
    pool.add("b", [found])
    assert await failover.embed(exchange, ["gone", "a", "b"], EmbeddingRequest("", ("x",))) is found
    assert (exchange.model, exchange.usage) == ("b", Usage(2))
    assert pool.told == [("a", "started"), ("a", "failed"), ("b", "started"), ("b", "ok")]


async def test_embedding_keeps_the_deadline(failover, pool, exchange):
    pool.add("a", [60.0])
    exchange.deadline_s = time.monotonic() + 0.02
    with pytest.raises(DeadlineExceeded):
        await failover.embed(exchange, ["a"], EmbeddingRequest("", ("x",)))


def test_the_nearer_of_two_deadlines_holds():
    now = time.monotonic()
    assert monotonic_deadline(now + 1, 600) == now + 1
    assert monotonic_deadline(now + 1000, 10) == pytest.approx(now + 10, abs=0.5)
    assert monotonic_deadline(None, 10) == pytest.approx(now + 10, abs=0.5)

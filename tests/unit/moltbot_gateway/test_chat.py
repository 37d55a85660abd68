from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from moltbot_gateway.ask import Ask, MeshOptions
from moltbot_gateway.chat import Answerer
from moltbot_gateway.failover import Failover
from moltbot_gateway.fair_queue import FairQueue
from moltbot_gateway.quota import ProcessBuckets, Quotas
from moltbot_gateway.settings import GatewaySettings, TenantLimits
from moltbot_mesh.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MoltbotError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from moltbot_models.generation import Delta, Media, Message, ToolCall, ToolCallDelta, ToolSpec, Usage

if TYPE_CHECKING:
    from moltbot_gateway.exchange import Exchange

HELLO = (Message("user", "hello"),)
END = Delta(finish_reason="stop", usage=Usage(3, 2))
CALLS_END = Delta(finish_reason="tool_calls", usage=Usage(3, 2))


def wants(name: str, arguments: str = "{}", index: int = 0) -> Delta:
    return Delta("", (ToolCallDelta(index, f"c{index}", name, arguments),))


@dataclass
class FakePeers:
    """The other services as a test says they are."""

    there: tuple[ToolSpec, ...] = (ToolSpec("calculator"), ToolSpec("clock"))
    results: dict[str, str | MoltbotError] = field(default_factory=dict)
    past: tuple[Message, ...] = ()
    append_error: MoltbotError | None = None
    called: list[ToolCall] = field(default_factory=list)
    appended: list[tuple[Message, ...]] = field(default_factory=list)
    marks: list[FakeMark] = field(default_factory=list)

    async def route(self, exchange: Exchange, ask: Ask) -> tuple[str, ...]:
        return ("m",)

    async def assemble(self, exchange: Exchange, ask: Ask, budget_tokens: int) -> tuple[Message, ...]:
        return (*self.past, *ask.messages)

    async def append_turn(self, exchange: Exchange, messages) -> None:
        if self.append_error is not None:
            raise self.append_error
        self.appended.append(tuple(messages))

    async def tools(self, tenant: str) -> tuple[ToolSpec, ...]:
        return self.there

    async def call_tool(self, exchange: Exchange, call: ToolCall) -> tuple[str, bool]:
        self.called.append(call)
        result = self.results.get(call.name, "4")
        if isinstance(result, MoltbotError):
            raise result
        return result, False

    async def open_mark(self, exchange: Exchange) -> FakeMark:
        self.marks.append(FakeMark())
        return self.marks[-1]


class FakeMark:
    def __init__(self) -> None:
        self.closed = False

    async def embed(self, deltas):
        return tuple(
            Delta(d.text + "*" if d.text else "", d.tool_calls, d.logprobs, d.finish_reason, d.usage) for d in deltas
        )

    def close(self) -> None:
        self.closed = True


class Gateway:
    def __init__(self, pool, **settings) -> None:
        self.settings = GatewaySettings(**settings)
        self.peers = FakePeers()
        self.queue = FairQueue(1, 4, 1.0)
        failover = Failover(self.settings, pool)
        self.answerer = Answerer(self.settings, failover, self.peers, self.queue, Quotas(ProcessBuckets()))  # type: ignore[arg-type]

    async def answer(self, exchange, ask: Ask) -> list[Delta]:
        return [delta async for deltas in self.answerer.answer(exchange, ask, stream=True) for delta in deltas]


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


@pytest.fixture
def gateway(pool) -> Gateway:
    return Gateway(pool, max_tool_steps=3)


def asked(*tools: str, **rest) -> Ask:
    return Ask(messages=HELLO, mesh=MeshOptions(tools=tools, **rest))


async def test_a_plain_question_is_answered_and_its_place_given_back(gateway, pool, exchange):
    pool.add("m", [Delta("he"), Delta("llo"), END])
    found = await gateway.answer(exchange, Ask(messages=HELLO))
    assert (text(found), found[-1].finish_reason, found[-1].usage) == ("hello", "stop", Usage(3, 2))
    assert ("".join(exchange.text), gateway.queue.in_flight) == ("hello", 0)


async def test_what_was_thought_is_kept_apart_also_where_the_client_leaves(gateway, pool, exchange):
    pool.add("m", [Delta(reasoning="2 and "), Delta(reasoning="2"), Delta("4"), 60.0, END])
    answer = gateway.answerer.answer(exchange, Ask(messages=HELLO), stream=True)
    for _ in range(3):
        await anext(answer)
    await answer.aclose()
    assert ("".join(exchange.reasoning), "".join(exchange.text)) == ("2 and 2", "4")


async def test_thoughts_of_every_step_with_tools_are_kept(gateway, pool, exchange):
    pool.add("m", [Delta(reasoning="one "), wants("clock"), CALLS_END], [Delta("noon", reasoning="two"), END])
    found = await gateway.answer(exchange, asked("*"))
    assert "".join(delta.reasoning for delta in found) == "".join(exchange.reasoning) == "one two"


async def test_a_client_that_leaves_gives_its_place_back(gateway, pool, exchange):
    upstream = pool.add("m", [Delta("he"), 60.0, END])
    answer = gateway.answerer.answer(exchange, Ask(messages=HELLO), stream=True)
    await anext(answer)
    assert gateway.queue.in_flight == 1
    await answer.aclose()
    assert (gateway.queue.in_flight, upstream.closed) == (0, 1)


async def test_tokens_of_the_answer_count_against_the_quota(pool, exchange):
    pool.add("m", [Delta("x"), Delta(finish_reason="stop", usage=Usage(50, 5000))])
    gateway = Gateway(pool, default_limits=TenantLimits(tokens_per_minute=100))
    await gateway.answer(exchange, Ask(messages=HELLO))
    with pytest.raises(ResourceExhausted, match="quota"):
        await gateway.answer(exchange, Ask(messages=HELLO))


async def test_an_image_counts_against_the_quota(pool, exchange):
    image = Media("image", b"\x89PNG", "image/png")
    pool.add("m", [Delta("x"), Delta(finish_reason="stop")])
    gateway = Gateway(pool, default_limits=TenantLimits(tokens_per_minute=260))
    await gateway.answer(exchange, Ask(messages=HELLO))
    await gateway.answer(exchange, Ask(messages=(Message("user", "look", parts=("look", image)),)))
    with pytest.raises(ResourceExhausted, match="quota"):
        await gateway.answer(exchange, Ask(messages=HELLO))


async def test_an_image_counts_in_the_usage_where_the_upstream_does_not_count(gateway, pool, exchange):
    image = Media("image", b"\x89PNG", "image/png", "low")
    pool.add("m", [Delta("four"), Delta(finish_reason="stop")])
    await gateway.answer(exchange, Ask(messages=(Message("user", "look", parts=("look", image)),)))
    assert exchange.usage == Usage(1 + 85, 1)


ONE_A_MINUTE = TenantLimits(requests_per_minute=1, tokens_per_minute=2)


async def test_what_no_model_answered_costs_nothing(pool, exchange):
    upstream = pool.add("m", [Unavailable("down")], [Delta("x"), END])
    gateway = Gateway(pool, default_limits=ONE_A_MINUTE)
    with pytest.raises(Unavailable, match="down"):
        await gateway.answer(exchange, Ask(messages=HELLO))
    assert text(await gateway.answer(exchange, Ask(messages=HELLO))) == "x"
    assert len(upstream.requests) == 2
    with pytest.raises(ResourceExhausted, match="quota"):
        await gateway.answer(exchange, Ask(messages=HELLO))


async def test_a_request_that_the_queue_refuses_costs_nothing(pool, exchange):
    pool.add("m", [Delta("x"), END])
    gateway = Gateway(pool, default_limits=ONE_A_MINUTE)
    gateway.queue._max_wait_s = 0.01
    async with gateway.queue.place("other", 1.0):
        with pytest.raises(ResourceExhausted) as refused:
            await gateway.answer(exchange, Ask(messages=HELLO))
    assert refused.value.reason == "OVERLOADED"
    assert text(await gateway.answer(exchange, Ask(messages=HELLO))) == "x"


async def test_an_answer_that_breaks_off_is_paid_for(pool, exchange):
    pool.add("m", [Delta("x"), Unavailable("broke")])
    gateway = Gateway(pool, default_limits=ONE_A_MINUTE)
    with pytest.raises(Unavailable, match="broke"):
        await gateway.answer(exchange, Ask(messages=HELLO))
    with pytest.raises(ResourceExhausted, match="quota"):
        await gateway.answer(exchange, Ask(messages=HELLO))


async def test_a_client_that_leaves_before_the_first_token_has_paid(pool, exchange):
    pool.add("m", [60.0])
    gateway = Gateway(pool, default_limits=ONE_A_MINUTE)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(gateway.answer(exchange, Ask(messages=HELLO)), 0.02)
    with pytest.raises(ResourceExhausted, match="quota"):
        await gateway.answer(exchange, Ask(messages=HELLO))


async def test_the_mesh_runs_the_tools_it_was_asked_for_and_the_model_goes_on(gateway, pool, exchange):
    upstream = pool.add(
        "m", [Delta("let me see "), wants("calculator", '{"expression": "2+2"}'), CALLS_END], [Delta("it is 4"), END]
    )
    found = await gateway.answer(exchange, asked("calculator"))
    assert text(found) == "let me see it is 4"
    assert [delta.finish_reason for delta in found if delta.finish_reason] == ["stop"]
    assert not any(delta.tool_calls for delta in found)
    assert found[-1].usage == exchange.usage == Usage(6, 4)
    assert gateway.peers.called == [ToolCall("c0", "calculator", '{"expression": "2+2"}')]
    assert upstream.requests[0].tools == (ToolSpec("calculator"),)
    assert upstream.requests[1].messages == (
        *HELLO,
        Message("assistant", "let me see ", tool_calls=(ToolCall("c0", "calculator", '{"expression": "2+2"}'),)),
        Message("tool", "4", name="calculator", tool_call_id="c0"),
    )
    assert [(run.tool, run.outcome) for run in exchange.tool_runs] == [("calculator", "success")]


async def test_several_calls_of_one_step_are_answered_in_their_order(gateway, pool, exchange):
    upstream = pool.add("m", [wants("clock", index=0), wants("calculator", index=1), CALLS_END], [END])
    gateway.peers.results = {"clock": "noon", "calculator": "4"}
    await gateway.answer(exchange, asked("*"))
    assert [m.content for m in upstream.requests[1].messages if m.role == "tool"] == ["noon", "4"]


async def test_arguments_that_are_wrong_go_back_to_the_model(gateway, pool, exchange):
    upstream = pool.add("m", [wants("calculator"), CALLS_END], [Delta("sorry"), END])
    gateway.peers.results["calculator"] = InvalidArgument("expression: missing")
    assert text(await gateway.answer(exchange, asked("*"))) == "sorry"
    assert upstream.requests[1].messages[-1].content == "error: expression: missing"
    assert exchange.tool_runs[0].outcome == "refused"


async def test_a_tool_service_that_fails_ends_the_request(gateway, pool, exchange):
    pool.add("m", [wants("calculator"), CALLS_END], [END])
    gateway.peers.results["calculator"] = Internal("broken")
    with pytest.raises(Internal):
        await gateway.answer(exchange, asked("*"))
    assert (exchange.tool_runs[0].outcome, gateway.queue.in_flight) == ("failed", 0)


async def test_a_model_that_never_stops_calling_is_stopped(gateway, pool, exchange):
    upstream = pool.add("m", [wants("calculator"), CALLS_END])
    with pytest.raises(FailedPrecondition) as raised:
        await gateway.answer(exchange, asked("*"))
    assert (raised.value.reason, len(upstream.requests)) == ("TOOL_LOOP_EXCEEDED", 3)


async def test_calls_of_the_clients_own_tools_are_passed_to_it(gateway, pool, exchange):
    pool.add("m", [wants("theirs", '{"a":'), Delta("", (ToolCallDelta(0, "", "", "1}"),)), CALLS_END])
    ask = Ask(messages=HELLO, tools=(ToolSpec("theirs"),), mesh=MeshOptions(tools=("*",)))
    found = await gateway.answer(exchange, ask)
    assert found[-1].tool_calls == (ToolCallDelta(0, "c0", "theirs", '{"a":1}'),)
    assert found[-1].finish_reason == "tool_calls"
    assert gateway.peers.called == []


async def test_a_tool_that_is_not_there_is_named(gateway, pool, exchange):
    with pytest.raises(NotFound, match=r"calclator.*calculator, clock"):
        await gateway.answer(exchange, asked("calclator"))
    assert pool.told == []


async def test_a_forced_call_is_forced_once(gateway, pool, exchange):
    upstream = pool.add("m", [wants("calculator"), CALLS_END], [END])
    await gateway.answer(exchange, Ask(messages=HELLO, tool_choice="required", mesh=MeshOptions(tools=("*",))))
    assert [request.tool_choice for request in upstream.requests] == ["required", "auto"]


async def test_with_a_session_the_turn_is_durable_before_the_end_is_told(gateway, pool, exchange):
    upstream = pool.add("m", [wants("clock"), CALLS_END], [Delta("noon"), END])
    gateway.peers.past = (Message("user", "before"),)
    answer = gateway.answerer.answer(exchange, asked("*", session="s"), stream=True)
    async for deltas in answer:
        assert bool(gateway.peers.appended) == (deltas[-1].finish_reason is not None)
    (turn,) = gateway.peers.appended
    assert [message.role for message in turn] == ["user", "assistant", "tool", "assistant"]
    assert turn[-1].content == "noon"
    assert upstream.requests[0].messages[0].content == "before"


async def test_a_turn_that_cannot_be_kept_ends_without_its_end(gateway, pool, exchange):
    pool.add("m", [Delta("hello"), END])
    gateway.peers.append_error = Unavailable("disk")
    answer = gateway.answerer.answer(exchange, asked(session="s"), stream=True)
    assert (await anext(answer))[0].text == "hello"
    with pytest.raises(Unavailable, match="disk"):
        await anext(answer)


async def test_a_session_needs_messages(gateway, exchange):
    with pytest.raises(InvalidArgument, match=r"moltbot\.session"):
        await gateway.answer(exchange, Ask(prompt="once", mesh=MeshOptions(session="s")))


@pytest.mark.parametrize(
    ("tenant", "wish", "marked"), [(True, None, True), (True, False, False), (False, True, True), (False, None, False)]
)
async def test_the_mark_is_the_tenants_unless_the_request_says_otherwise(pool, exchange, tenant, wish, marked):
    pool.add("m", [Delta("hello"), END])
    gateway = Gateway(pool, default_limits=TenantLimits(mark=tenant))
    found = await gateway.answer(exchange, asked(mark=wish))
    assert text(found) == ("hello*" if marked else "hello")
    assert "".join(exchange.text) == "hello"
    assert all(mark.closed for mark in gateway.peers.marks)


async def test_a_cancelled_request_closes_its_mark_and_its_model(gateway, pool, exchange):
    upstream = pool.add("m", [Delta("he"), 60.0, END])
    task = asyncio.create_task(gateway.answer(exchange, asked(mark=True)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (gateway.peers.marks[0].closed, upstream.closed, gateway.queue.in_flight) == (True, 1, 0)

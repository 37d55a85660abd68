"""Turns are kept once, in order, and for their tenant alone."""

from __future__ import annotations

import asyncio

import pytest

from moltbot_context.adapters.sqlite_sessions import SqliteSessions
from moltbot_context.turns import StoredCall, StoredMessage, Turn
from moltbot_mesh.errors import AlreadyExists, NotFound, ResourceExhausted


def turn(turn_id: str, text: str = "hello") -> Turn:
    calls = (StoredCall("c-1", "calculator", '{"expression": "1+1"}'),)
    return Turn(turn_id, (StoredMessage("assistant", text, tool_calls=calls),), "r-1", "m")


@pytest.fixture
async def sessions(tmp_path):
    found = SqliteSessions(tmp_path / "sessions.sqlite", 2)
    async with found.open():
        yield found


async def test_a_turn_that_is_sent_again_stands_once(sessions):
    first = await sessions.append("acme", "s", turn("t-1"))
    again = await sessions.append("acme", "s", turn("t-1"))
    assert (again.sequence, again.create_time_s) == (first.sequence, first.create_time_s)
    assert (await sessions.get("acme", "s")).turn_count == 1


async def test_another_body_under_the_same_id_is_refused(sessions):
    await sessions.append("acme", "s", turn("t-1"))
    with pytest.raises(AlreadyExists) as raised:
        await sessions.append("acme", "s", turn("t-1", "other"))
    assert raised.value.reason == "IDEMPOTENCY_CONFLICT"


async def test_turns_that_come_together_are_numbered_without_a_gap(sessions):
    await asyncio.gather(*(sessions.append("acme", "s", turn(f"t-{n}")) for n in range(20)))
    assert [one.sequence for one in await sessions.turns("acme", "s", 100, 0)] == list(range(20))
    newest = [one.sequence for one in await sessions.newest_turns("acme", "s", 3)]
    assert newest == [17, 18, 19]


async def test_messages_come_back_as_they_were(sessions):
    kept = turn("t-1", "naïve 🙂\0")
    await sessions.append("acme", "s", kept)
    (found,) = await sessions.turns("acme", "s", 10, 0)
    assert found.messages == kept.messages


async def test_a_session_of_the_same_name_is_another_tenants(sessions):
    await sessions.append("acme", "s", turn("t-1"))
    assert await sessions.turns("other", "s", 10, 0) == []
    assert await sessions.delete("other", "s") == 0
    with pytest.raises(NotFound):
        await sessions.get("other", "s")


async def test_a_deleted_session_leaves_no_turns_and_gives_its_room_back(sessions):
    await sessions.append("acme", "one", turn("t-1"))
    await sessions.append("acme", "two", turn("t-1"))
    with pytest.raises(ResourceExhausted):
        await sessions.append("acme", "three", turn("t-1"))
    assert await sessions.delete("acme", "one") == 1
    await sessions.append("acme", "one", turn("t-2"))
    assert [one.turn_id for one in await sessions.turns("acme", "one", 10, 0)] == ["t-2"]

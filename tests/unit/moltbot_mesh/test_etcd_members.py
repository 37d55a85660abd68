"""Many calls that find a member dead at the same time still find the one that lives."""

from __future__ import annotations

import asyncio

import pytest

from moltbot_mesh import etcd_members
from moltbot_mesh.errors import Unavailable
from moltbot_mesh.etcd_members import Members


@pytest.fixture
async def members(monkeypatch):
    """Two members; the first is dead. Tells which were asked."""
    found = Members(["127.0.0.1:1", "127.0.0.1:2"], None, "", "", 2.0)
    asked: list[int] = []

    async def is_ready(channel, _timeout_s):
        asked.append(found._channels.index(channel))
        await asyncio.sleep(0)
        return channel is found._channels[1]

    monkeypatch.setattr(etcd_members, "is_ready", is_ready)
    yield found, asked
    await found.close()


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
async def test_calls_that_fail_together_move_on_by_one_member(members, calls):
    found, asked = members
    channels = await asyncio.gather(*(found.connected(1.0) for _ in range(calls)))
    assert channels == [found._channels[1]] * calls
    assert len(asked) == 2 * calls


async def test_reads_that_fail_together_move_on_by_one_member(members, monkeypatch):
    found, _ = members
    found._current = 1
    tried: list[int] = []

    async def ready(_channel, _timeout_s):
        return True

    async def once(channel, _timeout_s):
        member = found._channels.index(channel)
        tried.append(member)
        await asyncio.sleep(0)
        if member == 1:
            raise Unavailable("dies")
        return member

    monkeypatch.setattr(etcd_members, "is_ready", ready)
    assert await asyncio.gather(*(found.attempts(once, repeat=True) for _ in range(2))) == [0, 0]
    assert tried == [1, 1, 0, 0]

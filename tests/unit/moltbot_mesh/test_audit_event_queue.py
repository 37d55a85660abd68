"""What waits to be spilled is taken in its order, those that somebody waits for among it or alone."""

from __future__ import annotations

import asyncio
import threading

import pytest
from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.audit.event_queue import EventQueue
from moltbot_mesh.audit.queued import Queued


def ordinary(counter: int) -> Queued:
    return Queued(audit_pb2.AuditEvent(), counter)


def durable(counter: int) -> Queued:
    return Queued(audit_pb2.AuditEvent(), counter, asyncio.get_running_loop().create_future())


def counters(batch: list[Queued]) -> list[int]:
    return [queued.counter for queued in batch]


@pytest.fixture
async def queue() -> EventQueue:
    queue = EventQueue("gateway", 8)
    for counter in (1, 2, 4):
        queue.put(ordinary(counter))
    queue.put_durable(durable(3))
    return queue


async def test_events_are_taken_in_the_order_of_their_numbers(queue):
    assert counters(queue.take()) == [1, 2, 3, 4]
    assert len(queue) == 0


async def test_who_waits_is_not_held_up_by_how_many_are_taken(queue):
    assert counters(queue.take(1)) == [1, 3]
    assert counters(queue.take(1)) == [2]


async def test_those_that_somebody_waits_for_can_be_taken_alone(queue):
    assert counters(queue.take(8, durable_alone=True)) == [3]
    assert counters(queue.take(8, durable_alone=True)) == [1, 2, 4]


async def test_what_is_put_back_comes_first_again(queue):
    batch = queue.take(2)
    queue.put(ordinary(5))
    queue.put_back(batch)
    assert (queue.has_durable, queue.has_ordinary) == (True, True)
    assert counters(queue.take()) == [1, 2, 3, 4, 5]


async def test_it_is_full_by_those_that_nobody_waits_for(queue):
    for counter in range(5, 10):
        assert not queue.is_full
        queue.put(ordinary(counter))
    assert queue.is_full


async def test_what_was_refused_leaves_half_the_room_to_answers():
    queue = EventQueue("gateway", 8)
    refused = audit_pb2.AuditEvent(outcome=audit_pb2.OUTCOME_REFUSED)
    answered = audit_pb2.AuditEvent(outcome=audit_pb2.OUTCOME_SUCCESS)
    for counter in range(1, 5):
        assert queue.has_room(refused)
        queue.put(ordinary(counter))
    assert not queue.has_room(refused)
    for counter in range(5, 9):
        assert queue.has_room(answered)
        queue.put(ordinary(counter))
    assert not queue.has_room(answered)


async def test_another_thread_wakes_who_takes():
    queue = EventQueue("gateway", 8)
    queue.begin()
    async with asyncio.timeout(5):
        await queue.gathered(0.01)  # it begins with what came before
        waiting = asyncio.create_task(queue.gathered(0.01))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        thread = threading.Thread(target=lambda: queue.put(ordinary(1)))
        thread.start()
        await waiting
        thread.join()
    assert counters(queue.take()) == [1]


async def test_a_batch_or_one_who_waits_does_not_linger():
    queue = EventQueue("gateway", 4)
    queue.begin()
    async with asyncio.timeout(5):
        for fill in (lambda: [queue.put(ordinary(n)) for n in (1, 2)], lambda: queue.put_durable(durable(3))):
            fill()
            await queue.gathered(60.0)
            queue.take()

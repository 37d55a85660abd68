"""Records on their way from the thread that commits to those that follow."""

from __future__ import annotations

import threading

import pytest

from moltbot_audit import backlog
from moltbot_audit.backlog import Backlog
from moltbot_audit.records import Committed


def group(first, count):
    return Committed([(n,) for n in range(first, first + count)], [b"leaf"] * count)


def test_groups_are_taken_together_in_order_and_cut_between_groups():
    waiting = Backlog(7)
    for first in range(7, 4007, 1000):
        waiting.put(group(first, 1000))
    rows, leaves = waiting.take()
    assert [n for (n,) in rows] == list(range(7, 3007))
    assert len(leaves) == 3000
    waiting.done(3000)
    assert waiting.reached == 3007
    assert not waiting.is_empty
    waiting.close()
    assert len(waiting.take().rows) == 1000  # what waits can be taken after the end
    assert waiting.take() is None
    assert waiting.is_empty


def test_a_time_that_is_up_is_no_end():
    waiting = Backlog(0)
    assert waiting.take(0.001) is None
    assert not waiting.closed
    waiting.put(group(0, 1))
    assert waiting.take(0.001) == group(0, 1)


@pytest.mark.parametrize("ends", ["done", "close"])
def test_whoever_adds_waits_while_too_much_waits(monkeypatch, ends):
    monkeypatch.setattr(backlog, "_MOST", 10)
    monkeypatch.setattr(backlog, "_LOOK_S", 0.01)
    waiting = Backlog(0)
    waiting.put(group(0, 10))
    added = threading.Event()

    def add():
        waiting.put(group(10, 1))
        added.set()

    adding = threading.Thread(target=add)
    adding.start()
    assert not added.wait(0.05)
    if ends == "done":
        waiting.done(1)
    else:
        waiting.close()
    adding.join(10)
    assert added.is_set()


def test_one_waits_until_a_sequence_is_reached():
    waiting = Backlog(0)
    assert waiting.wait(0, 0)
    assert not waiting.wait(5, 0.01)
    reached = threading.Thread(target=lambda: [waiting.done(1) for _ in range(5)])
    reached.start()
    assert waiting.wait(5, 10)
    reached.join()

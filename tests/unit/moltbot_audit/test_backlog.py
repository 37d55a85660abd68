"""Records on their way from the thread that commits to those that follow."""

from __future__ import annotations

import gc
import threading

import pytest

from moltbot_audit import backlog
from moltbot_audit.backlog import Backlog
from moltbot_audit.records import Committed, Place, Record, row


def group(first, count):
    return Committed([(n,) for n in range(first, first + count)], [b"leaf"] * count)


def test_rows_are_nothing_to_the_garbage_collector():
    made = row(Place(1, 0, 2), Record(b"i", b"payload", 5, trace_id=b"t", tenant="acme", type=1))
    assert made == (1, 0, 2, b"i", 5, b"t", "", "acme", "", "", 1, 0, 0, "", "", "", "", 0)
    gc.collect()
    assert not gc.is_tracked(made)


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


@pytest.mark.parametrize("ends", ["done", "release"])
def test_whoever_adds_waits_while_too_much_waits(monkeypatch, ends):
    monkeypatch.setattr(backlog, "_MOST", 10)
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
        waiting.release()
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

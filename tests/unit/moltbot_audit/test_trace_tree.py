"""A trace reads as what caused what, whatever order or nonsense the events come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from moltbot.audit.v1 import audit_pb2

from moltbot_audit.trace_tree import tree_of


def told(nodes):
    return [(node.event.object, told(node.children)) for node in nodes]


def count(nodes):
    return sum(1 + count(node.children) for node in nodes)


def test_children_stand_below_what_caused_them_in_order_of_time(event):
    request = event(object="request")
    route = event(object="route", parent_event_id=request.event_id)
    call = event(object="call", parent_event_id=request.event_id)
    effect = event(object="effect", parent_event_id=call.event_id)
    lone = event(object="lone", parent_event_id=b"x" * 16)
    events = [(n, one) for n, one in enumerate((effect, lone, call, request, route))]
    assert told(tree_of(events)) == [("request", [("route", []), ("call", [("effect", [])])]), ("lone", [])]


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=8))
def test_every_event_is_told_once_even_in_circles(links):
    ids = dict(links)
    events = [
        (n, audit_pb2.AuditEvent(event_id=bytes([n]) * 16, parent_event_id=bytes([parent]) * 16, time_unix_ns=1))
        for n, parent in ids.items()
    ]
    assert count(tree_of(events)) == len(ids)

"""What clients wrote into the log reaches an auditor's eyes, and never as an order to his terminal."""

from __future__ import annotations

import argparse

from moltbot.audit.v1 import audit_pb2

from moltbot_audit.trace_tree import tree_of
from moltbot_daemon.commands.audit_ask import _drawn
from moltbot_daemon.commands.shell import show

HOSTILE = "\x1b[2J\x9b1mtool\r\n#1 forged\N{RIGHT-TO-LEFT OVERRIDE}"


def test_a_result_is_shown_without_orders_to_the_terminal(capsys):
    show(argparse.Namespace(json=False), {}, f"a\tb\n{HOSTILE} é 字")
    assert capsys.readouterr().out == "a\tb\n\\x1b[2J\\x9b1mtool\\r\n#1 forged\\u202e é 字\n"


def test_an_event_is_one_line_of_its_trace_whatever_it_names():
    events = [
        audit_pb2.AuditEvent(event_id=bytes([n]) * 16, action="call tool", object=HOSTILE, subject=HOSTILE)
        for n in (1, 2)
    ]
    events[1].parent_event_id = events[0].event_id
    lines = _drawn(tree_of(list(enumerate(events))), "")
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert lines[1].startswith("└─ ")

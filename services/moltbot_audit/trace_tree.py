"""The events of a trace as the tree of what caused what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot.audit.v1 import audit_pb2


@dataclass(slots=True)
class Node:
    """An event and what it caused, in order of time."""

    sequence: int
    event: audit_pb2.AuditEvent
    children: list[Node] = field(default_factory=list["Node"])


def tree_of(events: Sequence[tuple[int, audit_pb2.AuditEvent]]) -> list[Node]:
    """The roots of a trace's trees.

    Args:
        events: Sequences and events, in any order. One whose parent is not among them is a root; so is the first of a
            circle, which only a producer that lies can make.
    """
    ordered = sorted(events, key=lambda one: (one[1].time_unix_ns, one[0]))
    nodes = {event.event_id: Node(sequence, event) for sequence, event in ordered}
    roots: list[Node] = []
    for node in nodes.values():
        parent = nodes.get(node.event.parent_event_id)
        if parent is None or _leads_to(node, parent, nodes):
            roots.append(node)
        else:
            parent.children.append(node)
    return roots


def _leads_to(node: Node, start: Node, nodes: dict[bytes, Node]) -> bool:
    """Whether the way up from `start` comes to `node`, or never ends."""
    at: Node | None = start
    for _ in range(len(nodes)):
        if at is None:
            return False
        if at is node:
            return True
        at = nodes.get(at.event.parent_event_id)
    return True

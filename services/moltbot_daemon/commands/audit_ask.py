"""`audit trace`, `body`, `shred`, `hold`, `release`, `holds`: what the log knows of one request, and of one person."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict
from moltbot.audit.v1 import audit_pb2, audit_pb2_grpc, privacy_pb2, privacy_pb2_grpc

from moltbot_audit.trace_tree import Node, tree_of
from moltbot_daemon.commands.local import mesh_channel
from moltbot_daemon.commands.shell import OK, Shell, printable
from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

_CALL_S = 60.0


def trace(shell: Shell) -> int:
    """Show all that a trace has in the log, as the tree of what caused what."""

    async def work() -> audit_pb2.GetTraceResponse:
        async with mesh_channel(shell, "audit", "") as channel:
            stub: Any = audit_pb2_grpc.AuditServiceStub(channel)
            return await stub.GetTrace(audit_pb2.GetTraceRequest(trace_id=shell.args.id.lower()), timeout=_CALL_S)

    found = asyncio.run(work())
    roots = tree_of([(logged.sequence, logged.event) for logged in found.events])
    shell.show([MessageToDict(logged) for logged in found.events], "\n".join(_drawn(roots, "")))
    return OK


def _drawn(nodes: Sequence[Node], indent: str, *, root: bool = True) -> list[str]:
    lines: list[str] = []
    for place, node in enumerate(nodes):
        last = place == len(nodes) - 1
        branch, below = ("", "") if root else ("└─ ", "   ") if last else ("├─ ", "│  ")
        lines.append(indent + branch + printable(_said(node), kept=""))
        lines += _drawn(node.children, indent + below, root=False)
    return lines


def _said(node: Node) -> str:
    event = node.event
    kind = audit_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_").lower().replace("_", " ")
    outcome = audit_pb2.Outcome.Name(event.outcome).removeprefix("OUTCOME_").lower()
    when = datetime.fromtimestamp(event.time_unix_ns / 1e9, UTC)
    parts = [f"{when:%H:%M:%S.%f}"[:-3], f"{kind}:", event.action, event.object, f"[{outcome}]"]
    if event.reason:
        parts.append(event.reason)
    if event.duration_us:
        parts.append(f"{event.duration_us / 1000:.1f} ms")
    if event.prompt_tokens or event.completion_tokens:
        parts.append(f"{event.prompt_tokens} + {event.completion_tokens} tokens")
    return " ".join(part for part in (*parts, f"by {event.subject}", f"#{node.sequence}") if part)


def body(shell: Shell) -> int:
    """Show what a request said and was answered, if it is kept; the reading is logged."""
    found = asyncio.run(_privacy(shell, "GetBody", privacy_pb2.GetBodyRequest(event_id=shell.args.id))).body
    shown = {
        "tenant": found.tenant,
        "data_subject": found.data_subject,
        "input": found.input.decode("utf-8", "replace"),
        "reasoning": found.reasoning.decode("utf-8", "replace"),
        "output": found.output.decode("utf-8", "replace"),
        "commitment_key": found.commitment_key.hex(),
        "redacted": dict(found.redacted),
    }
    shell.show(shown, "\n".join(f"{key}: {value}" for key, value in shown.items() if value))
    return OK


def shred(shell: Shell) -> int:
    """Destroy what is kept of a person or a trace; the records and their proofs stay."""
    args = shell.args
    request = privacy_pb2.ShredRequest(reason=args.reason)
    if args.trace:
        request.trace_id = args.trace.lower()
    elif args.tenant and args.subject:
        request.subject.tenant, request.subject.name = args.tenant, args.subject
    else:
        raise InvalidArgument("name --trace ID, or --tenant NAME and --subject NAME")
    gone = asyncio.run(_privacy(shell, "Shred", request)).events
    shell.show({"events": gone}, f"shredded the bodies of {gone} requests")
    return OK


def hold(shell: Shell) -> int:
    """Forbid that something expires or is shredded."""
    args = shell.args
    wanted = privacy_pb2.Hold(
        tenant=args.tenant or "", data_subject=args.subject or "", trace_id=args.trace or "", reason=args.reason
    )
    placed = asyncio.run(_privacy(shell, "PlaceHold", privacy_pb2.PlaceHoldRequest(hold=wanted))).hold
    shell.show(MessageToDict(placed), placed.hold_id)
    return OK


def release(shell: Shell) -> int:
    """End a hold."""
    request = privacy_pb2.ReleaseHoldRequest(hold_id=shell.args.id, reason=shell.args.reason)
    released = asyncio.run(_privacy(shell, "ReleaseHold", request)).hold
    shell.show(MessageToDict(released), f"released {released.hold_id}")
    return OK


def holds(shell: Shell) -> int:
    """List the holds, newest first."""
    found = asyncio.run(_privacy(shell, "ListHolds", privacy_pb2.ListHoldsRequest(page_size=1000))).holds
    lines = [
        printable(
            f"{one.hold_id}  {'released' if one.HasField('release_time') else 'holds':<9}"
            f"{one.trace_id or '/'.join(filter(None, (one.tenant, one.data_subject)))}  {one.reason}",
            kept="",
        )
        for one in found
    ]
    shell.show([MessageToDict(one) for one in found], "\n".join(lines) or "no holds")
    return OK


async def _privacy(shell: Shell, method: str, request: object) -> Any:
    async with mesh_channel(shell, "audit", "") as channel:
        stub: Any = privacy_pb2_grpc.PrivacyServiceStub(channel)
        return await getattr(stub, method)(request, timeout=_CALL_S)

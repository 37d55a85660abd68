"""The call being served: who asks, until when, under which trace.

Set by the server's interceptor (`moltbot_mesh.interceptors`), read by servicers and by the client side, which passes
deadline, trace and tenant on to the next service. A context variable, so tasks of one request inherit it.

Source: W3C Trace Context (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import random
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

PrincipalKind = Literal["service", "key", "anonymous"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    kind: PrincipalKind
    subject: str
    """A service's name, an API key's id, or `anonymous`."""
    tenant: str = ""
    """For whom. A service says for whom it acts; a key has one tenant."""
    roles: frozenset[str] = frozenset()


ANONYMOUS = Principal("anonymous", "anonymous")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A W3C trace context."""

    trace_id: bytes
    """16 bytes."""
    span_id: bytes
    """8 bytes."""
    sampled: bool

    @property
    def traceparent(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id.hex()}-{self.span_id.hex()}-{'01' if self.sampled else '00'}"

    def child(self) -> TraceContext:
        """The same trace, a span of its own."""
        return TraceContext(self.trace_id, random.randbytes(8), self.sampled)  # noqa: S311 - an id, not a secret

    @classmethod
    def parse(cls, header: str | bytes | None) -> TraceContext | None:
        """Read a `traceparent` header; `None` if it is missing or malformed, as the specification asks."""
        if header is None:
            return None
        text = header.decode("ascii", "replace") if isinstance(header, bytes) else header
        parts = text.strip().split("-")
        if len(parts) < 4 or parts[0] == "ff" or (parts[0] == "00" and len(parts) != 4):
            return None
        try:
            trace_id, span_id, flags = bytes.fromhex(parts[1]), bytes.fromhex(parts[2]), int(parts[3], 16)
        except ValueError:
            return None
        if len(trace_id) != 16 or len(span_id) != 8 or not any(trace_id) or not any(span_id):
            return None
        return cls(trace_id, span_id, bool(flags & 1))

    @classmethod
    def new(cls, *, sampled: bool) -> TraceContext:
        """A new trace."""
        return cls(random.randbytes(16), random.randbytes(8), sampled)  # noqa: S311 - ids, not secrets


@dataclass(frozen=True, slots=True)
class Call:
    """One call being served."""

    method: str
    """Full name, `/moltbot.tool.v1.ToolService/CallTool`."""
    principal: Principal = ANONYMOUS
    deadline_monotonic_s: float | None = None
    """When the caller stops waiting, on `time.monotonic()`'s clock; `None` if it said nothing."""
    trace: TraceContext = field(default_factory=lambda: TraceContext.new(sampled=False))
    request_id: str = ""
    peer: str = ""
    """Address of the caller, without port; empty within the process."""
    action: str = ""
    """What a client of REST asked for (`GET /moltbot/v1/tools`), without query; empty for gRPC."""
    event_id: bytes = b""
    """The audit event that it belongs to, 16 bytes; empty if that is not known. What it causes names it as parent."""

    def by(self, principal: Principal, request_id: str | None = None, event_id: bytes | None = None) -> Call:
        """The same call, its caller recognised, under another request id and event if they are given."""
        found = self.request_id if request_id is None else request_id
        event = self.event_id if event_id is None else event_id
        return Call(self.method, principal, self.deadline_monotonic_s, self.trace, found, self.peer, self.action, event)

    def remaining_s(self, at_most: float) -> float:
        """Seconds until the deadline, at least 0, at most `at_most`."""
        if self.deadline_monotonic_s is None:
            return at_most
        return max(0.0, min(at_most, self.deadline_monotonic_s - time.monotonic()))


def address(peer: str) -> str:
    """The address in `address:port`, of which the port may be missing and a v6 address stands in brackets."""
    return (peer.rpartition(":")[0] or peer).strip("[]")


_current: ContextVar[Call | None] = ContextVar("moltbot_call", default=None)


def current_call() -> Call | None:
    """The call being served by this task, if any."""
    return _current.get()


def enter_call(call: Call) -> None:
    """Make `call` the current one for the rest of this task."""
    _current.set(call)


def leave_call(before: Call | None) -> None:
    """Make the call that was current before `enter_call` current again, where a handler ran in the caller's task."""
    _current.set(before)


def acting_tenant(asked: str) -> str:
    """For whom the current call acts.

    A key acts for its own tenant whatever the request says; a service for the tenant it names, or else for the one
    whose request it serves.
    """
    call = _current.get()
    if call is None:
        return asked
    if call.principal.kind == "key":
        return call.principal.tenant
    return asked or call.principal.tenant

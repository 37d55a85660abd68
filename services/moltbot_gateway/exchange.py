"""The record of one request while it is answered; at its end it becomes one audit event."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from moltbot_mesh.telemetry import Stopwatch
from moltbot_models.generation import Usage

if TYPE_CHECKING:
    from moltbot_gateway.ask import Caller

Outcome = Literal["success", "refused", "failed", "cancelled"]


def uuid7() -> bytes:
    """A UUIDv7: 48 bits of Unix milliseconds, 74 random bits.

    Source: RFC 9562, section 5.7.
    """
    raw = bytearray((time.time_ns() // 1_000_000).to_bytes(6) + os.urandom(10))
    raw[6] = (raw[6] & 0x0F) | 0x70
    raw[8] = (raw[8] & 0x3F) | 0x80
    return bytes(raw)


def uuid_text(value: bytes) -> str:
    """The 8-4-4-4-12 form."""
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(slots=True)
class Attempt:
    """One call to a model."""

    model: str
    outcome: Outcome
    reason: str
    first_token_us: int
    duration_us: int


@dataclass(slots=True)
class ToolRun:
    """One call to a tool of the mesh."""

    tool: str
    outcome: Outcome
    reason: str
    duration_us: int


@dataclass(slots=True)
class Exchange:
    """What is known of a request so far."""

    caller: Caller
    event_id: bytes = field(default_factory=uuid7)
    started_ns: int = field(default_factory=time.time_ns)
    watch: Stopwatch = field(default_factory=Stopwatch)
    deadline_s: float | None = None
    """When it must have ended, on `time.monotonic()`'s clock."""
    model: str = ""
    """The model that answers; set before the first piece of the answer."""
    task_type: str = ""
    rule: str = ""
    usage: Usage = field(default_factory=Usage)
    outcome: Outcome = "success"
    reason: str = ""
    http_status: int = 0
    mark_id: int = 0
    mark_epoch: int = 0
    session: str = ""
    input_digest: bytes = b""
    """Keyed commitment to what was asked."""
    text: list[str] = field(default_factory=list)
    """The answer's text as it was sent, without the mark."""
    attempts: list[Attempt] = field(default_factory=list)
    tool_runs: list[ToolRun] = field(default_factory=list)

    @property
    def audit_id(self) -> str:
        """The event's id as the client sees it."""
        return uuid_text(self.event_id)

    @property
    def tenant(self) -> str:
        """Whose request it is."""
        return self.caller.principal.tenant

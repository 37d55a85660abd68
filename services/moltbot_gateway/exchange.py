"""The record of one request while it is answered; at its end it becomes one audit event."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moltbot_mesh.telemetry import Stopwatch
from moltbot_mesh.uuid7 import uuid7, uuid_text
from moltbot_models.generation import Timing, Usage

if TYPE_CHECKING:
    from moltbot_gateway.ask import Caller
    from moltbot_gateway.media_notes import MediaNote
    from moltbot_mesh.audit.event_words import Outcome

UNKNOWN_ROUTE = "unknown"


@dataclass(slots=True)
class Attempt:
    """One call to a model."""

    model: str
    outcome: Outcome
    reason: str
    first_token_us: int
    duration_us: int
    operation: str = "chat"
    """`chat`, `text_completion` or `embeddings`, as OpenTelemetry names them; `rerank` or `classify`."""
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = ""
    outbound: bool = False
    """Whether it left this machine."""
    timing: Timing | None = None
    """Where its time went, where the engine says it."""
    span_id: bytes = b""
    """Under which the upstream knows it, in a trace that is recorded."""
    ended_ns: int = field(default_factory=time.time_ns)
    """Since the epoch; it is made when the call ends."""

    @property
    def started_ns(self) -> int:
        """Since the epoch."""
        return self.ended_ns - self.duration_us * 1000


@dataclass(slots=True)
class ToolRun:
    """One call to a tool of the mesh."""

    tool: str
    outcome: Outcome
    reason: str
    duration_us: int
    arguments: str = ""
    result: str = ""
    ended_ns: int = field(default_factory=time.time_ns)
    """Since the epoch; it is made when the call ends."""

    @property
    def started_ns(self) -> int:
        """Since the epoch."""
        return self.ended_ns - self.duration_us * 1000


@dataclass(frozen=True, slots=True)
class Routing:
    """What the router decided."""

    candidates: tuple[str, ...]
    """Models, the best first."""
    duration_us: int
    ended_ns: int = field(default_factory=time.time_ns)
    """Since the epoch; it is made when the call ends."""

    @property
    def started_ns(self) -> int:
        """Since the epoch."""
        return self.ended_ns - self.duration_us * 1000


@dataclass(slots=True)
class Exchange:
    """What is known of a request so far."""

    caller: Caller
    route: str = UNKNOWN_ROUTE
    """A label of metrics: one of as many as there are methods, whatever paths clients ask for."""
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
    commitment_key: bytes = b""
    """Keys this request's commitments, 32 bytes; made with the first of them."""
    input: bytes = b""
    """What was asked, where bodies are kept."""
    end_user: str = ""
    """Whom the request is about, as the client names it."""
    routing: Routing | None = None
    media: tuple[MediaNote, ...] = ()
    """Of the images and sounds in it."""
    text: list[str] = field(default_factory=list)
    """The answer's text as it was sent, without the mark."""
    reasoning: list[str] = field(default_factory=list)
    """What the model thought before it, likewise."""
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

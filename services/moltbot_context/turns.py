"""What a session is made of."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StoredCall:
    """A tool call that the assistant asked for."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message."""

    role: str
    content: str = ""
    name: str = ""
    tool_calls: tuple[StoredCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What was said and answered in one request."""

    turn_id: str
    messages: tuple[StoredMessage, ...]
    request_id: str = ""
    model: str = ""
    sequence: int = 0
    """Place in the session, from 0."""
    create_time_s: float = 0.0
    """Unix time."""


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation."""

    name: str
    tenant: str
    create_time_s: float
    update_time_s: float
    turn_count: int
    labels: dict[str, str] = field(default_factory=dict)

"""The audit service's section of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from moltbot_mesh.settings import Section


class AuditSettings(Section):
    """The log."""

    origin: str = "moltbot.local/audit"
    """Name of the log in its checkpoints (C2SP: a schema-less URL)."""
    segment_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 32)] = 64 << 20
    """Size of a segment file, allocated at once."""
    checkpoint_interval_s: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    """Least time between two signed checkpoints."""
    retention_days: Annotated[int, Field(ge=183)] = 400
    """Days that records are kept; the Cybersecurity Law asks for six months at least."""

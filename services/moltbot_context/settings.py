"""The context service's section of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from moltbot_mesh.settings import Section


class ContextSettings(Section):
    """Sessions."""

    max_turns_read: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Newest turns of a session that are looked at for a prompt."""
    max_turn_bytes: Annotated[int, Field(ge=1024)] = 16 << 20
    """Largest turn, in bytes."""
    max_sessions_per_tenant: Annotated[int, Field(ge=1)] = 100_000
    """Sessions that a tenant may have."""

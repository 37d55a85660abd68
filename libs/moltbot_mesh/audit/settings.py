"""How services record what they do. Read before anything else, and so without gRPC."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moltbot_mesh.settings import Section

OnFull = Literal["block_high_risk", "block_all"]
"""What a full spill stops: only what must be durable before it happens, or everything. The first drops other events,
counted, with an alarm and a gap record."""


class RecordingSettings(Section):
    """How services record what they do while the audit service is away."""

    spill_mib: Annotated[int, Field(ge=1, le=1 << 20)] = 256
    """Disk for records on their way to the log, of each service and process, in MiB. A tenth is kept for what must not
    happen unrecorded."""
    queue_events: Annotated[int, Field(ge=16, le=1 << 20)] = 65_536
    """Records that wait in memory while nothing can be spilled; more are dropped."""
    on_full: OnFull = "block_high_risk"
    """What a full spill stops. `block_high_risk`: tools that change something and administration; other records are
    dropped, counted, with an alarm and a gap record. `block_all`: every request."""

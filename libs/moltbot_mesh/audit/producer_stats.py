"""What became of a producer's events."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProducerStats:
    """What became of the events so far."""

    emitted: int
    acknowledged: int
    """By the audit service, those of earlier runs among them."""
    dropped: int
    """Because queue and spill were full."""
    rejected: int
    """By the audit service as not valid; kept beside the spill."""
    queued: int
    """In memory."""
    spill_bytes: int
    """On disk."""
    behind_s: float
    """How long events have waited without any being acknowledged, in seconds."""
    spill_limit_bytes: int
    failing: bool
    """Whether events cannot be spilled now."""

"""The watermark service's section of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from moltbot_mesh.settings import Section


class WatermarkSettings(Section):
    """Keys, marks and labels."""

    master_key_file: Path | None = None
    """32 bytes in base64, mode 0600, the same for all instances; if empty, `master.key` in the data directory."""
    retention_days: Annotated[int, Field(ge=183)] = 400
    """How long an epoch verifies after it stopped marking, and how long marks and fingerprints are kept."""
    sampler_profile: Literal["detect", "trace24"] = "trace24"
    """What a mark at sampling says: that tenant and epoch made the text, or also which answer it is (24 bits)."""
    content_producer: Annotated[str, Field(max_length=256, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")] = "moltbot"
    """`ContentProducer` of labels that name none: the producer's registered code."""
    max_waiting: Annotated[int, Field(ge=1)] = 1024
    """Calls that may wait for the database or for a detection; more are refused."""

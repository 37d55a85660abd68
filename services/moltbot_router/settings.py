"""The router's section of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from moltbot_mesh.settings import Section


def _one_or_more(value: object) -> object:
    """One path stands for a list of one."""
    return (value,) if isinstance(value, str | Path) else value


class RouterSettings(Section):
    """Models, rules and when a model counts as broken."""

    models: Annotated[tuple[Path, ...], BeforeValidator(_one_or_more)] = ()
    """Manifests: a YAML file or a directory of them, or a list of such. Read again when they change."""
    rules: Path | None = None
    """Routing rules: a JSON or YAML file. Read again when it changes."""
    reload_interval_s: Annotated[float, Field(gt=0, le=3600)] = 0.5
    """How often the files are looked at, in seconds."""
    breaker_failures: Annotated[int, Field(ge=1)] = 3
    """Failures in a row that open a model's breaker."""
    breaker_open_s: Annotated[float, Field(gt=0)] = 5.0
    """Seconds an open breaker waits before one call may try; doubles with each failed try, up to a minute."""

"""The tool service's section of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from moltbot_mesh.settings import Section


class ToolSettings(Section):
    """Which tools there are."""

    disabled: list[str] = []
    """Built-in tools that nobody may call."""
    tenants: dict[str, list[str]] = {}
    """Tools by tenant; a tenant that is not named may call all."""
    sql_database: Path | None = None
    """SQLite file that `sql_lookup` reads; without one the tool is not offered."""
    sql_tables: dict[str, list[str]] = {}
    """Tables that `sql_lookup` may read, each with the columns it may show and search; empty means none."""
    sql_max_rows: Annotated[int, Field(ge=1, le=1000)] = 20
    """Most rows of an answer."""
    max_result_bytes: Annotated[int, Field(ge=256)] = 65_536
    """Longest result that is given to a model; a longer one is cut, and says so."""

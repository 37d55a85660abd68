"""The module graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moltbot_audit.module import MODULE as AUDIT
from moltbot_context.module import MODULE as CONTEXT
from moltbot_gateway.module import MODULE as GATEWAY
from moltbot_router.module import MODULE as ROUTER
from moltbot_tool.module import MODULE as TOOL
from moltbot_watermark.module import MODULE as WATERMARK

if TYPE_CHECKING:
    from moltbot_mesh.module import Module

MODULES: dict[str, Module] = {module.name: module for module in (AUDIT, WATERMARK, ROUTER, CONTEXT, TOOL, GATEWAY)}
"""All services by name."""

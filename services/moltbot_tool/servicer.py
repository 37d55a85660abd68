"""ToolService: wire to core and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from moltbot.tool.v1 import tool_pb2 as pb
from moltbot.tool.v1 import tool_pb2_grpc

from moltbot_mesh.call import acting_tenant
from moltbot_mesh.paging import page_of
from moltbot_mesh.telemetry import Stopwatch
from moltbot_tool.tools import Effect

if TYPE_CHECKING:
    from moltbot_tool.tools import Registry, Tool

_EFFECTS = {Effect.PURE: pb.EFFECT_PURE, Effect.READ: pb.EFFECT_READ, Effect.WRITE: pb.EFFECT_WRITE}


class ToolServicer(tool_pb2_grpc.ToolServiceServicer):
    """See `protos/moltbot/tool/v1/tool.proto`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def ListTools(self, request: pb.ListToolsRequest, context: Any) -> pb.ListToolsResponse:  # noqa: ARG002, N802
        """List tools."""
        tools = self._registry.tools(acting_tenant(request.tenant))
        page, token = page_of(tools, request.page_size, request.page_token)
        return pb.ListToolsResponse(tools=[_shown(tool) for tool in page], next_page_token=token)

    async def GetTool(self, request: pb.GetToolRequest, context: Any) -> pb.GetToolResponse:  # noqa: ARG002, N802
        """Describe a tool."""
        return pb.GetToolResponse(tool=_shown(self._registry.get(acting_tenant(request.tenant), request.name)))

    async def CallTool(self, request: pb.CallToolRequest, context: Any) -> pb.CallToolResponse:  # noqa: ARG002, N802
        """Run a tool."""
        tenant = acting_tenant(request.tenant)
        watch = Stopwatch()
        result = await self._registry.call(tenant, request.name, request.arguments)
        return pb.CallToolResponse(
            content=result.content,
            failed=result.failed,
            duration_us=watch.us(),
            effect=_EFFECTS[self._registry.get(tenant, request.name).effect],
        )


def _shown(tool: Tool) -> pb.Tool:
    return pb.Tool(
        name=tool.name,
        description=tool.description,
        parameters=msgspec.json.encode(tool.parameters).decode(),
        effect=_EFFECTS[tool.effect],
        timeout_s=tool.timeout_s,
        idempotent=tool.idempotent,
    )

"""The tool service's wiring."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import structlog
from moltbot.tool.v1 import tool_pb2_grpc

from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.module import Access, Module, Registration, Runtime, Service
from moltbot_mesh.threads import Threads
from moltbot_tool.builtin.calculator import CALCULATOR
from moltbot_tool.builtin.clock import CLOCK
from moltbot_tool.builtin.sql_lookup import sql_lookup
from moltbot_tool.builtin.units import CONVERT_UNITS
from moltbot_tool.effects import EffectRecords
from moltbot_tool.servicer import ToolServicer
from moltbot_tool.settings import ToolSettings
from moltbot_tool.tools import Registry, Tool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

log = structlog.get_logger("moltbot.tool")

_THREADS = 8
"""A call that timed out keeps its thread until the tool returns."""
_MAX_WAITING = 256
_TENANT_METHODS: tuple[str, ...] = ("ListTools", "GetTool", "CallTool")


def builtin_tools(settings: ToolSettings) -> list[Tool]:
    """The built-in tools that the settings allow.

    Raises:
        InvalidArgument: The settings name a database that is not there.
    """
    tools = [CALCULATOR, CLOCK, CONVERT_UNITS]
    if settings.sql_database is not None:
        if not settings.sql_database.is_file():
            raise InvalidArgument(f"tool.sql_database: {settings.sql_database} is not a file")
        tables = {table: columns for table, columns in settings.sql_tables.items() if columns}
        if not tables:
            log.warning("sql_lookup is not offered: tool.sql_tables names no table with columns")
        else:
            tools.append(sql_lookup(settings.sql_database, tables, settings.sql_max_rows))
    return [tool for tool in tools if tool.name not in settings.disabled]


@contextlib.asynccontextmanager
async def open_tool(runtime: Runtime) -> AsyncGenerator[Service]:
    """Register the tools and serve."""
    settings = runtime.settings(ToolSettings)
    async with runtime.audit_producer().running() as producer, Threads("tools", _THREADS, _MAX_WAITING) as threads:
        tools, effects = builtin_tools(settings), EffectRecords(producer)
        registry = Registry(tools, settings.tenants, settings.max_result_bytes, threads, effects.call)
        access = dict.fromkeys(_TENANT_METHODS, Access.TENANT)
        yield Service((Registration(tool_pb2_grpc.add_ToolServiceServicer_to_server, ToolServicer(registry), access),))


MODULE = Module("tool", ("audit",), open_tool)

"""The context service's wiring."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from moltbot.context.v1 import context_pb2_grpc

from moltbot_context.adapters.sqlite_sessions import SqliteSessions
from moltbot_context.servicer import ContextServicer
from moltbot_context.settings import ContextSettings
from moltbot_mesh.module import Access, Module, Registration, Runtime, Service

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_TENANT_METHODS: tuple[str, ...] = ("CreateSession", "GetSession", "ListSessions", "DeleteSession", "ListTurns")


@contextlib.asynccontextmanager
async def open_context(runtime: Runtime) -> AsyncGenerator[Service]:
    """Open the sessions and serve."""
    settings = runtime.settings(ContextSettings)
    sessions = SqliteSessions(runtime.data_dir / "sessions.sqlite", settings.max_sessions_per_tenant)
    async with sessions.open():
        servicer = ContextServicer(settings, sessions)
        access = dict.fromkeys(_TENANT_METHODS, Access.TENANT)
        yield Service((Registration(context_pb2_grpc.add_ContextServiceServicer_to_server, servicer, access),))


MODULE = Module("context", (), open_context)

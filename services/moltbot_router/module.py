"""The router's wiring."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from moltbot.router.v1 import router_pb2_grpc

from moltbot_mesh.audit.acts import ADMINISTRATION
from moltbot_mesh.module import Access, Module, Registration, Runtime, Service
from moltbot_router.health import Health
from moltbot_router.policy import Policy
from moltbot_router.servicer import RouterServicer
from moltbot_router.settings import RouterSettings
from moltbot_router.source import TableSource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping


@contextlib.asynccontextmanager
async def open_router(runtime: Runtime) -> AsyncGenerator[Service]:
    """Read the table, follow its files, serve."""
    settings = runtime.settings(RouterSettings)

    def told(action: str, facts: Mapping[str, str]) -> None:
        runtime.acts.after(ADMINISTRATION, action, "routing table", facts, failed="refuse" in action)

    source = TableSource(settings, told)
    policy = Policy(Health(settings.breaker_failures, settings.breaker_open_s))
    servicer = RouterServicer(source, policy)
    access = {"ListModels": Access.OPERATOR}
    async with source.watching():
        yield Service((Registration(router_pb2_grpc.add_RouterServiceServicer_to_server, servicer, access),))


MODULE = Module("router", (), open_router)

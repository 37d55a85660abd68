"""A service's slow work is its own trouble."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar
from types import SimpleNamespace

import pytest
from moltbot.audit.v1.audit_pb2_grpc import AuditServiceStub

import moltbot_tool.module
from moltbot_mesh.audit.producer import AuditProducer
from moltbot_mesh.errors import ResourceExhausted
from moltbot_mesh.inprocess import InProcessChannel
from moltbot_mesh.threads import Threads
from moltbot_tool.settings import ToolSettings
from moltbot_tool.tools import Tool

CONTEXT: ContextVar[str] = ContextVar("context", default="none")


async def test_work_runs_in_the_callers_context_and_its_error_comes_back():
    async with Threads("test", 1, 1) as threads:
        CONTEXT.set("mine")
        assert await threads.run(CONTEXT.get) == "mine"
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)


async def test_no_more_wait_than_may_also_where_the_callers_have_gone():
    gate = threading.Event()
    async with Threads("test", 1, 1) as threads:
        callers = [asyncio.create_task(threads.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        with pytest.raises(ResourceExhausted):
            await threads.run(time.time)
        gate.set()
        async with asyncio.timeout(20):
            while True:
                try:
                    await threads.run(time.time)
                    break
                except ResourceExhausted:
                    await asyncio.sleep(0.005)


async def test_slow_tools_hold_up_nobody_elses_threads(monkeypatch, tmp_path):
    gate = threading.Event()
    slow = Tool("slow", "", {"type": "object"}, lambda _: str(gate.wait(10)))
    monkeypatch.setattr(moltbot_tool.module, "builtin_tools", lambda _: [slow])
    runtime = SimpleNamespace(
        settings=lambda _: ToolSettings(),
        audit_producer=lambda: AuditProducer(AuditServiceStub(InProcessChannel({})), tmp_path, "tool", "tool-1"),
    )
    async with moltbot_tool.module.open_tool(runtime) as service:
        registry = service.registrations[0].servicer._registry
        calls = [asyncio.create_task(registry.call("acme", "slow", "{}")) for _ in range(64)]
        await asyncio.sleep(0.05)
        try:
            async with asyncio.timeout(20):
                await asyncio.to_thread(time.time)
        finally:
            gate.set()
            await asyncio.gather(*calls, return_exceptions=True)

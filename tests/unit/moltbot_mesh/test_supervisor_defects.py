"""A probe with a defect is a child that is not ready, not a child that nobody looks after any more."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from moltbot_mesh.supervisor import State, Supervisor

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_child_whose_probe_raised_anything_is_started_again():
    asked = 0

    async def ready() -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ValueError("a defect")
        return True

    child = Supervisor("child", SLEEPS, dict(os.environ), ready)
    async with child.running():
        await child.wait_ready(10)
        assert child.state is State.READY
    assert "a defect" in child.tail()


async def test_a_second_cancellation_does_not_leave_the_child_running():
    async def ready() -> bool:
        return True

    ignores = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    stubborn = ignores + "import time; print('up', flush=True); time.sleep(60)"
    child = Supervisor("child", [sys.executable, "-c", stubborn], dict(os.environ), ready, grace_s=0.3)

    async def run() -> None:
        async with child.running():
            await child.wait_ready(10)
            await until(lambda: "up" in child.tail())
            await asyncio.sleep(60)

    task = asyncio.create_task(run())
    await until(lambda: "up" in child.tail())
    pid = child.pid
    task.cancel()
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: not Path(f"/proc/{pid}").exists())
    assert task.cancelled()

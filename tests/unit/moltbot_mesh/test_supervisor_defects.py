"""Children that are not as they should be: probes with defects, children that hang, that leave others, that refuse."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from moltbot_mesh import supervisor
from moltbot_mesh.errors import FailedPrecondition, Unavailable
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


async def test_a_child_that_died_is_noticed_although_its_own_child_holds_its_output():
    async def ready() -> bool:
        return True

    spawns = (
        "import subprocess, sys, time; "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(p.pid, flush=True); "
        "time.sleep(60)"
    )
    child = Supervisor("child", [sys.executable, "-c", spawns], dict(os.environ), ready)
    async with child.running():
        await child.wait_ready(10)
        await until(lambda: child.tail().strip())
        first, grandchild = child.pid, int(child.tail().split()[0])
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.restarts == 1)
        await until(lambda: not runs(grandchild))
        await until(lambda: child.state is State.READY and child.pid not in {None, first})


async def test_a_child_that_hangs_is_killed_and_started_again(monkeypatch):
    monkeypatch.setattr(supervisor, "_ALIVE_INTERVAL_S", 0.05)
    monkeypatch.setattr(supervisor, "_ALIVE_TIMEOUT_S", 0.1)
    hangs = False

    async def ready() -> bool:
        return True

    async def alive() -> None:
        if hangs:
            await asyncio.sleep(60)

    child = Supervisor("child", SLEEPS, dict(os.environ), ready, alive=alive)
    async with child.running():
        await child.wait_ready(10)
        first = child.pid
        os.kill(first, signal.SIGSTOP)
        await asyncio.sleep(0.5)
        assert child.pid == first  # it still answers
        hangs = True
        await until(lambda: child.restarts == 1)
        hangs = False
        await until(lambda: child.state is State.READY and child.pid not in {None, first})
        assert not runs(first)
        assert "did not answer any more" in child.tail()


async def test_one_probe_that_fails_kills_nobody(monkeypatch):
    monkeypatch.setattr(supervisor, "_ALIVE_INTERVAL_S", 0.02)
    asked = 0

    async def ready() -> bool:
        return True

    async def alive() -> None:
        nonlocal asked
        asked += 1
        if asked % 3:
            raise Unavailable("busy")

    child = Supervisor("child", SLEEPS, dict(os.environ), ready, alive=alive)
    async with child.running():
        await child.wait_ready(10)
        await until(lambda: asked > 7)
        assert child.restarts == 0


async def test_a_child_that_can_never_be_ready_is_told_at_once_and_why():
    async def ready() -> bool:
        return False

    async def set_up() -> None:
        raise FailedPrecondition("the model is no model")

    child = Supervisor("child", SLEEPS, dict(os.environ), ready, on_started=set_up)
    async with child.running():
        with pytest.raises(FailedPrecondition, match="no model"):
            await child.wait_ready(10)


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

"""A child process that is kept alive: started, probed, watched, restarted with backoff, stopped with grace.

The child ends with its parent even when the parent is killed (`PR_SET_PDEATHSIG`), so a killed daemon leaves no port
taken. Secrets never belong in `argv`: it is readable by every user of the machine.

Source: prctl(2), PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import signal
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

import structlog

from moltbot_mesh.errors import FailedPrecondition, MoltbotError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

log = structlog.get_logger("moltbot.supervisor")

_PR_SET_PDEATHSIG = 1
_FIRST_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 30.0
_STEADY_S = 30.0
"""A child that was ready this long starts again without backoff."""
_PROBE_INTERVAL_S = 0.05
_WATCH_INTERVAL_S = 0.1
_ALIVE_INTERVAL_S = 5.0
_ALIVE_TIMEOUT_S = 10.0
_ALIVE_FAILURES = 3
_TAIL_LINES = 60
_libc = ctypes.CDLL(None, use_errno=True)


class State(Enum):
    """What the child does."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"


async def _nothing() -> None:
    """For hooks that are not given."""


def _die_with(parent: int) -> None:
    """Runs in the child between fork and exec: system calls only."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent was gone before the signal was set


class Supervisor:
    """Keeps one child process running.

    Args:
        name: For logs and messages.
        argv: The command.
        env: Its whole environment.
        ready: Whether the child can do its work; asked after each start until it says yes. A `MoltbotError` is a no.
        alive: Raises, or does not return, if a child that was ready no longer answers at all; asked every few seconds.
            A child that is only slow must pass: after three times in a row it is killed and started again.
        on_started: Awaited after each start before `ready` is asked. Until the child was ready once, a
            `FailedPrecondition` of it means that no restart will help; `wait_ready` raises it.
        before_stop: Awaited before the child is asked to end.
        grace_s: Seconds between SIGTERM and SIGKILL.
        ready_timeout_s: Seconds a start may take before the child is killed and started again.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        ready: Callable[[], Awaitable[bool]],
        *,
        alive: Callable[[], Awaitable[object]] = _nothing,
        on_started: Callable[[], Awaitable[None]] = _nothing,
        before_stop: Callable[[], Awaitable[None]] = _nothing,
        grace_s: float = 10.0,
        ready_timeout_s: float = 60.0,
    ) -> None:
        self._name = name
        self._argv = list(argv)
        self._env = dict(env)
        self._ready = ready
        self._alive = alive
        self._on_started = on_started
        self._before_stop = before_stop
        self._grace_s = grace_s
        self._ready_timeout_s = ready_timeout_s
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._became_ready = asyncio.Event()
        self._was_ready = False
        self._refused: FailedPrecondition | None = None
        self.state = State.STOPPED
        self.restarts = 0
        """Starts after the first."""

    @property
    def pid(self) -> int | None:
        """Of the running child."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def tail(self) -> str:
        """The last lines that the child wrote."""
        return "\n".join(self._lines)

    def missing(self) -> list[str]:
        """What a readiness check has to say."""
        return [] if self.state is State.READY else [f"{self._name} is {self.state.value}"]

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the child can do its work.

        Raises:
            FailedPrecondition: It never will; the message says why.
            Unavailable: It could not in time; the message has the end of its log.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._became_ready.wait()
            if self._refused is not None:
                raise self._refused
        except TimeoutError:
            raise Unavailable(
                f"{self._name} was not ready after {timeout_s:g} s ({self.state.value}); its log ends:\n{self.tail()}"
            ) from None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Keep the child running while the context is open."""
        task = asyncio.create_task(self._keep(), name=f"supervise-{self._name}")
        try:
            yield
        finally:
            try:
                if self.state is State.READY:
                    await self._before_stop()
            except MoltbotError as error:
                log.warning("child not drained", child=self._name, error=error.message)
            finally:
                task.cancel()
                await _ended(task)
                self.state = State.STOPPED

    async def _keep(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        loop = asyncio.get_running_loop()
        while True:
            self.state = State.STARTING
            steady_from_s = None
            try:
                async with self._child() as process:
                    if await self._wait_until_ready(process):
                        steady_from_s = loop.time()
                        self.state = State.READY
                        self._was_ready, self._refused = True, None
                        self._became_ready.set()
                        log.info("child ready", child=self._name, pid=process.pid, restarts=self.restarts)
                        await self._watch(process)
            except Exception as error:  # also a defect of a hook: a child that nobody looks after would be worse
                log.exception("child not supervised", child=self._name)
                self._lines.append(f"cannot be started: {type(error).__name__}: {error}")
            if self._refused is None:
                self._became_ready.clear()
            self.state = State.BACKING_OFF
            if steady_from_s is not None and loop.time() - steady_from_s > _STEADY_S:
                backoff_s = _FIRST_BACKOFF_S
            code = self._process.returncode if self._process is not None else None
            log.error("child ended; starting again", child=self._name, code=code, tail=self.tail()[-2000:])
            await asyncio.sleep(backoff_s * (0.5 + random.random()))  # noqa: S311 - jitter
            backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
            self.restarts += 1

    async def _wait_until_ready(self, process: asyncio.subprocess.Process) -> bool:
        """False if the child ended or took too long; it is killed then."""
        try:
            async with asyncio.timeout(self._ready_timeout_s):
                await self._on_started()
                while process.returncode is None:
                    with contextlib.suppress(MoltbotError, OSError):
                        if await self._ready():
                            return True
                    await asyncio.sleep(_PROBE_INTERVAL_S)
        except TimeoutError:
            self._lines.append(f"not ready after {self._ready_timeout_s:g} s")
        except MoltbotError as error:
            self._lines.append(f"could not be set up: {error.message}")
            if isinstance(error, FailedPrecondition) and not self._was_ready:
                self._refused = error
                self._became_ready.set()
        return False

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Return when the child has ended, or no longer answers.

        Not `process.wait()`: that also waits for whoever else holds the child's output, its own children above all.
        """
        loop = asyncio.get_running_loop()
        failures, ask_at_s = 0, loop.time() + _ALIVE_INTERVAL_S
        while process.returncode is None:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            if loop.time() < ask_at_s:
                continue
            try:
                async with asyncio.timeout(_ALIVE_TIMEOUT_S):
                    await self._alive()
                failures = 0
            except (MoltbotError, OSError):  # TimeoutError is an OSError
                failures += 1
                log.warning("child does not answer", child=self._name, pid=process.pid, times=failures)
            if failures >= _ALIVE_FAILURES:
                self._lines.append("did not answer any more; killed")
                self.state = State.BACKING_OFF
                _kill(process)
                return
            ask_at_s = loop.time() + _ALIVE_INTERVAL_S

    @contextlib.asynccontextmanager
    async def _child(self) -> AsyncGenerator[asyncio.subprocess.Process]:
        parent = os.getpid()
        process = await asyncio.create_subprocess_exec(
            *self._argv,
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            preexec_fn=lambda: _die_with(parent),
            start_new_session=True,  # a terminal's ^C is for the daemon, which stops its children in order
        )
        self._process = process
        reading = asyncio.create_task(self._read(process), name=f"log-{self._name}")
        try:
            yield process
        finally:
            try:
                await _ended(asyncio.create_task(self._stop(process), name=f"stop-{self._name}"))
            finally:
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue  # a line longer than the reader's buffer: its rest follows
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._lines.append(text)
            log.debug("child log", child=self._name, line=text[:2000])

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(self._grace_s):
                    await process.wait()
            except TimeoutError:
                log.warning("child killed: it did not end in time", child=self._name, grace_s=self._grace_s)
        _kill(process)
        await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    """End the child, and its own children with it: it leads a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for a task that was cancelled, to its end also if the waiter is cancelled: it has a child to stop."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled

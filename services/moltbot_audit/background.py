"""What the audit service does beside answering: tasks whose end is noticed."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Self

log = structlog.get_logger("moltbot.audit")


class Background:
    """Runs tasks until it is closed.

    They mend what can be mended by themselves; one that ends with an error is a defect or a broken machine, and the
    service says that it is not ready.
    """

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._ended: list[str] = []

    def start(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Run some work; it may end when there is nothing left to do."""
        task = asyncio.create_task(work, name=f"audit-{name}")
        task.add_done_callback(partial(self._done, name))
        self._tasks.append(task)

    def _done(self, name: str, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.critical("work of the audit service has ended; restart it", task=name, exc_info=error)
            self._ended.append(f"its work `{name}` has ended ({type(error).__name__}: {error}); restart it")

    @property
    def ended(self) -> list[str]:
        """What runs no more because of an error, in words for people."""
        return list(self._ended)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

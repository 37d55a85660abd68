"""A few threads of one service's own, for work that would hold up the event loop.

The loop's default threads are shared by all services of a process, and there are few of them: one service's slow work
there holds up every other's.
"""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from moltbot_mesh.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """Runs functions in threads, as many at once as there are, with a bounded queue before them.

    Args:
        name: Of the threads.
        threads: How many; they start when they are needed.
        max_waiting: Calls that may wait for one.
    """

    def __init__(self, name: str, threads: int, max_waiting: int) -> None:
        self._name = name
        self._most = threads + max_waiting
        self._pool = ThreadPoolExecutor(threads, name)
        self._under_way = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a thread, in the caller's context. It runs on where the caller is cancelled.

        Raises:
            ResourceExhausted: Too many calls wait.
        """
        if self._under_way >= self._most:
            raise ResourceExhausted(
                f"{self._name}: {self._under_way} calls are under way already; try again",
                reason="OVERLOADED",
                retry_after_s=1.0,
            )
        context = contextvars.copy_context()
        running = asyncio.get_running_loop().run_in_executor(self._pool, lambda: context.run(work, *args, **kwargs))
        # Counted until the work is done: a thread is not free because its caller has gone.
        self._under_way += 1
        running.add_done_callback(self._done)
        return await asyncio.shield(running)

    def _done(self, running: asyncio.Future[T]) -> None:
        self._under_way -= 1
        if not running.cancelled():
            running.exception()  # seen, also where the caller has gone

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what runs; what only waits is dropped."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

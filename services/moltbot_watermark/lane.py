"""One thread for work that would hold up the event loop, with a bounded queue before it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from moltbot_mesh.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class Lane:
    """Runs functions one after the other, in the order in which they came.

    Args:
        name: Of the thread.
        max_waiting: Calls that may wait.
    """

    def __init__(self, name: str, max_waiting: int) -> None:
        self._name = name
        self._thread = ThreadPoolExecutor(1, name)
        self._max_waiting = max_waiting
        self._waiting = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the lane's thread.

        Raises:
            ResourceExhausted: Too many calls wait.
        """
        if self._waiting >= self._max_waiting:
            raise ResourceExhausted(
                f"{self._name}: {self._waiting} calls wait already; try again", reason="OVERLOADED", retry_after_s=1.0
            )
        self._waiting += 1
        # Counted until the work is done, not until its caller has gone: a cancelled call's work still runs.
        future = asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def _done(self, future: asyncio.Future[T]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # seen, also where the caller has gone

    async def close(self) -> None:
        """Wait for what runs; what only waits is dropped."""
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

"""One thread for work that would hold up the event loop, with a bounded queue before it."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from moltbot_mesh.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")
_MOST_OF_A_TENANT = 32


@dataclass(slots=True)
class _Turns:
    """Of one tenant."""

    next: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


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
        self._turns: dict[str, _Turns] = {}

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the lane's thread.

        Raises:
            ResourceExhausted: Too many calls wait.
        """
        return await asyncio.shield(self._submit(lambda: work(*args, **kwargs)))

    async def run_for(self, tenant: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the lane's thread, one of a tenant at a time: its next lets other tenants' pass before.

        Raises:
            ResourceExhausted: Too many calls wait, or too many of the tenant.
        """
        turns = self._turns.setdefault(tenant, _Turns())
        if turns.waiting >= _MOST_OF_A_TENANT:
            raise ResourceExhausted(
                f"{self._name}: {turns.waiting} calls of the tenant wait already; try again",
                reason="OVERLOADED",
                retry_after_s=1.0,
            )
        turns.waiting += 1
        try:
            await turns.next.acquire()
        except asyncio.CancelledError:
            self._left(tenant, turns)
            raise
        try:
            future = self._submit(lambda: work(*args, **kwargs))
        except ResourceExhausted:
            self._turn_done(tenant, turns)
            raise
        future.add_done_callback(functools.partial(self._turn_done, tenant, turns))
        return await asyncio.shield(future)

    def _turn_done(self, tenant: str, turns: _Turns, _: object = None) -> None:
        turns.next.release()
        self._left(tenant, turns)

    def _left(self, tenant: str, turns: _Turns) -> None:
        turns.waiting -= 1
        if not turns.waiting:
            del self._turns[tenant]

    def _submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        if self._waiting >= self._max_waiting:
            raise ResourceExhausted(
                f"{self._name}: {self._waiting} calls wait already; try again", reason="OVERLOADED", retry_after_s=1.0
            )
        self._waiting += 1
        # Counted until the work is done, not until its caller has gone: a cancelled call's work still runs.
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: asyncio.Future[T]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # seen, also where the caller has gone

    async def close(self) -> None:
        """Wait for what runs; what only waits is dropped."""
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

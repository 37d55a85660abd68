"""Admission: at most so many requests at once, the rest wait in a bounded queue that is fair between tenants by weight.

Start-time fair queueing: a waiting request is tagged with the virtual time at which its tenant's share would start it,
and the smallest tag goes next. A tenant with a thousand waiting requests delays another's first by one place, not by a
thousand. And no tenant takes the last eighth of the places or of the queue: whoever holds its places for minutes, by
answers that it does not read, keeps nobody else out.

Source: Goyal, Vin, Cheng, "Start-time Fair Queuing" (SIGCOMM 1996).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import Counter
from typing import TYPE_CHECKING

from moltbot_mesh.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_KEPT_PART = 8
_GIVEN_UP = 64
"""Entries nobody waits for any more that may stand in the heap beyond the live ones."""


class FairQueue:
    """A bounded number of places, given out fairly.

    Args:
        places: Requests that may hold a place at the same time.
        max_waiting: Requests that may wait.
        max_wait_s: Seconds one may wait.
    """

    def __init__(self, places: int, max_waiting: int, max_wait_s: float) -> None:
        self._free = places
        self._places = places
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._most_held = places - places // _KEPT_PART
        self._most_waiting = max_waiting - max_waiting // _KEPT_PART
        self._held: Counter[str] = Counter()
        self._waits: Counter[str] = Counter()
        self._waiting: list[tuple[float, int, asyncio.Future[None], str]] = []
        self._live = 0
        self._sequence = 0
        self._virtual_time = 0.0
        self._finish: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._live

    @property
    def in_flight(self) -> int:
        """Requests that hold a place."""
        return self._places - self._free

    @contextlib.asynccontextmanager
    async def place(self, tenant: str, weight: float) -> AsyncGenerator[None]:
        """Hold a place while the context is open.

        Raises:
            ResourceExhausted: The queue is full, or the wait was too long.
        """
        await self._acquire(tenant, weight)
        try:
            yield
        finally:
            self._release(tenant)

    async def _acquire(self, tenant: str, weight: float) -> None:
        if self._free and self._held[tenant] < self._most_held:
            # Then none waits that may have a place: one that becomes free goes to whoever does.
            self._take(tenant)
            return
        if self._live >= self._max_waiting or self._waits[tenant] >= self._most_waiting:
            waiting = min(self._live, self._max_waiting)
            raise ResourceExhausted(
                f"{waiting} requests wait already; try again shortly", reason="OVERLOADED", retry_after_s=1.0
            )
        tag = max(self._virtual_time, self._finish.get(tenant, 0.0))
        self._finish[tenant] = tag + 1.0 / weight
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sequence += 1
        heapq.heappush(self._waiting, (tag, self._sequence, turn, tenant))
        self._live += 1
        self._waits[tenant] += 1
        try:
            async with asyncio.timeout(self._max_wait_s):
                await turn
        except TimeoutError:
            self._give_up(turn, tenant)
            raise ResourceExhausted(
                f"no place became free within {self._max_wait_s:g} s; try again later",
                reason="OVERLOADED",
                retry_after_s=self._max_wait_s,
            ) from None
        except asyncio.CancelledError:
            self._give_up(turn, tenant)
            raise

    def _take(self, tenant: str) -> None:
        self._free -= 1
        self._held[tenant] += 1

    def _leave_queue(self, tenant: str) -> None:
        self._live -= 1
        _one_less(self._waits, tenant)

    def _give_up(self, turn: asyncio.Future[None], tenant: str) -> None:
        if turn.done() and not turn.cancelled():
            self._release(tenant)  # the place was given in the same moment
        else:
            turn.cancel()
            self._leave_queue(tenant)
            if len(self._waiting) > 2 * self._live + _GIVEN_UP:
                self._waiting = [entry for entry in self._waiting if not entry[2].cancelled()]
                heapq.heapify(self._waiting)

    def _release(self, tenant: str) -> None:
        self._free += 1
        _one_less(self._held, tenant)
        passed_over: list[tuple[float, int, asyncio.Future[None], str]] = []
        while self._free and self._waiting:
            entry = heapq.heappop(self._waiting)
            tag, _, turn, next_tenant = entry
            if turn.cancelled():
                continue
            if self._held[next_tenant] >= self._most_held:
                passed_over.append(entry)
                continue
            self._leave_queue(next_tenant)
            self._take(next_tenant)
            self._virtual_time = max(self._virtual_time, tag)
            turn.set_result(None)
        for entry in passed_over:
            heapq.heappush(self._waiting, entry)
        if not self._waiting:
            self._finish.clear()


def _one_less(counts: Counter[str], tenant: str) -> None:
    counts[tenant] -= 1
    if not counts[tenant]:
        del counts[tenant]

"""Admission: at most so many requests at once, the rest wait in a bounded queue that is fair between tenants by weight.

Start-time fair queueing: each tenant has a line, tagged with the virtual time at which its share would start its first
request, and the smallest tag goes next. A tenant with a thousand waiting requests delays another's first by one place,
not by a thousand; one that gave up was not served and moves no tag. And no tenant takes the last eighth of the places
or of the queue: whoever holds its places for minutes, by answers that it does not read, keeps nobody else out.

Source: Goyal, Vin, Cheng, "Start-time Fair Queuing" (SIGCOMM 1996).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moltbot_mesh.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_KEPT_PART = 8
_GIVEN_UP = 64
"""Lines nobody waits in any more that may stand in the heap beyond the live ones."""


@dataclass(slots=True, eq=False)
class _Line:
    """A tenant's requests that wait."""

    tenant: str
    turns: dict[asyncio.Future[None], float] = field(default_factory=dict)
    """In the order they came, each with its weight."""


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
        self._lines: dict[str, _Line] = {}
        self._waiting: list[tuple[float, int, _Line]] = []
        """A heap of lines by the tags of their first requests."""
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
        line = self._lines.get(tenant)
        if self._live >= self._max_waiting or (line is not None and len(line.turns) >= self._most_waiting):
            waiting = min(self._live, self._max_waiting)
            raise ResourceExhausted(
                f"{waiting} requests wait already; try again shortly", reason="OVERLOADED", retry_after_s=1.0
            )
        if line is None:
            line = self._lines[tenant] = _Line(tenant)
            self._tag(line)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.turns[turn] = weight
        self._live += 1
        try:
            async with asyncio.timeout(self._max_wait_s):
                await turn
        except TimeoutError:
            self._give_up(line, turn)
            raise ResourceExhausted(
                f"no place became free within {self._max_wait_s:g} s; try again later",
                reason="OVERLOADED",
                retry_after_s=self._max_wait_s,
            ) from None
        except asyncio.CancelledError:
            self._give_up(line, turn)
            raise

    def _take(self, tenant: str) -> None:
        self._free -= 1
        self._held[tenant] += 1

    def _tag(self, line: _Line) -> None:
        self._sequence += 1
        tag = max(self._virtual_time, self._finish.get(line.tenant, 0.0))
        heapq.heappush(self._waiting, (tag, self._sequence, line))

    def _leave(self, line: _Line, turn: asyncio.Future[None]) -> None:
        """Take a request out of its line, if it still stands there."""
        if line.turns.pop(turn, None) is None:
            return
        self._live -= 1
        if not line.turns:
            del self._lines[line.tenant]

    def _give_up(self, line: _Line, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            self._release(line.tenant)  # the place was given in the same moment
            return
        turn.cancel()
        self._leave(line, turn)
        if len(self._waiting) > 2 * len(self._lines) + _GIVEN_UP:
            self._waiting = [entry for entry in self._waiting if entry[2].turns]
            heapq.heapify(self._waiting)

    def _release(self, tenant: str) -> None:
        self._free += 1
        _one_less(self._held, tenant)
        passed_over: list[tuple[float, int, _Line]] = []
        while self._free and self._waiting:
            entry = heapq.heappop(self._waiting)
            tag, _, line = entry
            while (turn := next(iter(line.turns), None)) is not None and turn.cancelled():
                self._leave(line, turn)  # whoever waited has not learnt of it yet
            if turn is None:
                continue
            if self._held[line.tenant] >= self._most_held:
                passed_over.append(entry)
                continue
            self._take(line.tenant)
            self._virtual_time = max(self._virtual_time, tag)
            self._finish[line.tenant] = tag + 1.0 / line.turns[turn]
            self._leave(line, turn)
            if line.turns:
                self._tag(line)
            turn.set_result(None)
        for entry in passed_over:
            heapq.heappush(self._waiting, entry)
        if not self._lines:
            self._waiting.clear()
            self._finish.clear()


def _one_less(counts: Counter[str], tenant: str) -> None:
    counts[tenant] -= 1
    if not counts[tenant]:
        del counts[tenant]

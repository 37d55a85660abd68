"""What waits in memory to be spilled: events in their order, and beside them those that somebody waits for.

Events for which there is no room are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING

import structlog
from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.audit.queued import Gap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_mesh.audit.queued import Queued

log = structlog.get_logger("moltbot.audit")

BATCH = 2048
"""Events that are spilled at once."""


class EventQueue:
    """One producer's queue. Put and drop from any thread; all else from the loop.

    Args:
        service: Whose events, for the log.
        most: Events that may wait, beside those that somebody waits for.
    """

    def __init__(self, service: str, most: int) -> None:
        self._service = service
        self._most = most
        self._batch = min(BATCH, most // 2)
        self._ordinary: deque[Queued] = deque()
        self._durable: deque[Queued] = deque()
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0
        self.gap = Gap()
        """What was dropped."""

    def __len__(self) -> int:
        return len(self._ordinary) + len(self._durable)

    @property
    def is_full(self) -> bool:
        """Whether no ordinary event has room."""
        return len(self._ordinary) >= self._most

    def has_room(self, event: audit_pb2.AuditEvent) -> bool:
        """Whether an event for which nobody waits may be put.

        What was refused has half the room: whoever is refused because nothing can be recorded must not take the place
        of an answer that is still on its way.
        """
        yields = event.outcome == audit_pb2.OUTCOME_REFUSED
        return len(self._ordinary) < (self._most // 2 if yields else self._most)

    @property
    def has_ordinary(self) -> bool:
        """Whether events wait for which nobody waits."""
        return bool(self._ordinary)

    @property
    def has_durable(self) -> bool:
        """Whether events wait for which somebody waits."""
        return bool(self._durable)

    def begin(self) -> None:
        """From now on somebody takes: the running loop, which other threads must wake."""
        self._thread_id, self._loop = threading.get_ident(), asyncio.get_running_loop()
        self._wake.set()

    def put(self, queued: Queued) -> None:
        """Add an event, whether there is room or not."""
        self._ordinary.append(queued)
        self._notify(self._wake)
        if len(self._ordinary) == self._batch:
            self._notify(self._urgent)

    def put_durable(self, queued: Queued) -> None:
        """Add an event that somebody waits for; it is taken at once."""
        self._durable.append(queued)
        self._wake.set()
        self._urgent.set()

    def put_back(self, batch: Sequence[Queued]) -> None:
        """Events that were taken wait again, before all others."""
        self._durable.extendleft(queued for queued in reversed(batch) if queued.durable is not None)
        self._ordinary.extendleft(queued for queued in reversed(batch) if queued.durable is None)

    def take(self, most: int | None = None, *, durable_alone: bool = False) -> list[Queued]:
        """Take events, in the order of their numbers.

        Args:
            most: Of those for which nobody waits; `None` means all.
            durable_alone: Take none of these while there are others.
        """
        durable = [self._durable.popleft() for _ in range(len(self._durable))]
        most = 0 if durable and durable_alone else len(self._ordinary) if most is None else most
        # Other threads may add to it meanwhile.
        ordinary = [self._ordinary.popleft() for _ in range(min(len(self._ordinary), most))]
        return sorted(durable + ordinary, key=lambda queued: queued.counter) if durable else ordinary

    def drop(self, counter: int, problem: str) -> None:
        """Count an event that has no room."""
        dropped = self.gap.add(counter)
        if dropped in (1, 10, 100) or dropped % 1000 == 0:
            log.critical("audit events dropped", service=self._service, dropped=dropped, problem=problem)

    async def gathered(self, linger_s: float) -> None:
        """Wait for events, and then for others to go with them, unless they make a batch or somebody waits."""
        await self._wake.wait()
        if not self._urgent.is_set():
            await self._hurry(linger_s)
        self._wake.clear()
        self._urgent.clear()

    async def rest(self, most_s: float) -> None:
        """Do nothing for a while, unless it becomes urgent."""
        await self._hurry(most_s)
        self._urgent.clear()

    async def _hurry(self, most_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._urgent.wait()

    def _notify(self, flag: asyncio.Event) -> None:
        if self._loop is None or flag.is_set():
            return
        if threading.get_ident() == self._thread_id:
            flag.set()
        else:
            self._loop.call_soon_threadsafe(flag.set)

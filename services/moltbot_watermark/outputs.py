"""Registers answers in groups: those that come while one group is written go together in the next.

Group commit, as of the audit log: a transaction and a change of threads cost more than a fingerprint.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from moltbot_mesh.errors import AlreadyExists, ResourceExhausted
from moltbot_watermark.fingerprint import fingerprints

if TYPE_CHECKING:
    from moltbot_watermark.lane import Lane
    from moltbot_watermark.registry import Output, Registry

_GROUP = 64
"""So many are written in a few milliseconds: reservations pass in between."""

Waiting = tuple["Output", str, asyncio.Future[None]]


class Outputs:
    """What waits to be registered.

    Args:
        registry: Takes them.
        key: Of the fingerprints, 32 bytes.
        writing: Where the database is written.
        max_waiting: Answers that may wait.
    """

    def __init__(self, registry: Registry, key: bytes, writing: Lane, max_waiting: int) -> None:
        self._registry = registry
        self._key = key
        self._writing = writing
        self._max_waiting = max_waiting
        self._waiting: deque[Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    async def register(self, output: Output, text: str) -> None:
        """Bind an answer to its request; it is in the database when this returns.

        Raises:
            AlreadyExists: The audit id is bound to another answer.
            ResourceExhausted: Too many wait.
        """
        if len(self._waiting) >= self._max_waiting:
            raise ResourceExhausted(
                f"{len(self._waiting)} answers wait to be registered; try again",
                reason="OVERLOADED",
                retry_after_s=1.0,
            )
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((output, text, done))
        if self._task is None:
            self._task = asyncio.create_task(self._write_all(), name="watermark-register")
        await done

    async def _write_all(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(_GROUP, len(self._waiting)))]
            await self._write_group(group)
        self._task = None

    async def _write_group(self, group: list[Waiting]) -> None:
        try:
            refused = await self._writing.run(self._register, [(output, text) for output, text, _ in group])
        except Exception as error:  # noqa: BLE001 - each of those who wait is told
            refused = [error] * len(group)
        for (_, _, done), why in zip(group, refused, strict=True):
            if done.done():
                continue  # who waited has gone
            if why is None:
                done.set_result(None)
            else:
                done.set_exception(why)

    def _register(self, group: list[tuple[Output, str]]) -> list[AlreadyExists | None]:
        found = fingerprints([text for _, text in group], self._key)
        return self._registry.register_all([(output, text) for (output, _), text in zip(group, found, strict=True)])

    async def close(self) -> None:
        """Write what waits."""
        if self._task is not None:
            await self._task

"""Registers answers in groups: those that come while one group is written go together in the next.

Group commit, as of the audit log: a transaction and a change of threads cost more than a fingerprint.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from moltbot_mesh.errors import ResourceExhausted
from moltbot_watermark.fingerprint import fingerprints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_mesh.errors import AlreadyExists
    from moltbot_watermark.lane import Lane
    from moltbot_watermark.output_rows import Output
    from moltbot_watermark.registry import Registry

    Answers = list[AlreadyExists | None]
    Texts = Sequence[tuple[Output, str]]

_GROUP = 64
"""So many are written in a few milliseconds: reservations pass in between."""


class _Waiting(NamedTuple):
    outputs: Texts
    done: asyncio.Future[Answers]


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
        self._waiting: deque[_Waiting] = deque()
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    async def register(self, outputs: Texts) -> Answers:
        """Bind answers to their requests; they are in the database when this returns.

        Args:
            outputs: Each with its text, without the mark.

        Returns:
            For each why it was refused; `None` if it was not.

        Raises:
            ResourceExhausted: Too many wait; none was taken.
        """
        if self._count >= self._max_waiting:
            raise ResourceExhausted(
                f"{self._count} answers wait to be registered; try again", reason="OVERLOADED", retry_after_s=1.0
            )
        waiting = _Waiting(outputs, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._count += len(outputs)
        if self._task is None:
            self._task = asyncio.create_task(self._write_all(), name="watermark-register")
        return await waiting.done

    async def _write_all(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft()]
            size = len(group[0].outputs)
            while self._waiting and size + len(self._waiting[0].outputs) <= _GROUP:
                group.append(self._waiting.popleft())
                size += len(group[-1].outputs)
            self._count -= size
            await self._write_group(group)
        self._task = None

    async def _write_group(self, group: Sequence[_Waiting]) -> None:
        try:
            answers = await self._writing.run(self._register, [one for waiting in group for one in waiting.outputs])
        except Exception as error:  # noqa: BLE001 - each of those who wait is told
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_exception(error)
            return
        start = 0
        for waiting in group:
            end = start + len(waiting.outputs)
            if not waiting.done.done():  # else who waited has gone
                waiting.done.set_result(answers[start:end])
            start = end

    def _register(self, outputs: Texts) -> Answers:
        found = fingerprints([text for _, text in outputs], self._key)
        return self._registry.register_all([(output, text) for (output, _), text in zip(outputs, found, strict=True)])

    async def close(self) -> None:
        """Write what waits."""
        if self._task is not None:
            await self._task

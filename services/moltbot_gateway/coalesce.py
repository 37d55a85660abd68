"""Puts pieces that arrive close together into one message.

A gRPC message costs about 80 µs on its way through Python and Envoy, a piece in a message about 14. The first piece
goes out at once; after each message whatever arrives within the interval goes out together.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

T = TypeVar("T")
_WAITING = 1024


class Coalescer(Generic[T]):
    """Reads a source in a task of its own and hands out what has arrived.

    Args:
        source: Read to its end, or closed when the consumer stops.
        interval_s: Least time between two batches.
    """

    def __init__(self, source: AsyncGenerator[T], interval_s: float) -> None:
        self._source = source
        self._interval_s = interval_s
        self._arrived: list[T] = []
        self._came = asyncio.Event()
        self._taken = asyncio.Event()

    async def batches(self) -> AsyncGenerator[list[T]]:
        """Yield lists of items in order, never empty.

        Raises:
            BaseException: What the source raised, after all items before it.
        """
        loop = asyncio.get_running_loop()
        pump = asyncio.create_task(self._pump(), name="coalesce")
        pump.add_done_callback(lambda _: self._came.set())
        try:
            while True:
                await self._came.wait()
                self._came.clear()
                batch, self._arrived = self._arrived, []
                self._taken.set()
                if batch:
                    sent_s = loop.time()
                    yield batch
                    left_s = self._interval_s - (loop.time() - sent_s)
                    if not pump.done() and left_s > 0:
                        await asyncio.sleep(left_s)
                elif pump.done():
                    break
                if pump.done():
                    self._came.set()
            await pump
        finally:
            if not pump.done():
                pump.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await pump
            elif not pump.cancelled():
                pump.exception()  # a consumer that stopped early does not ask for it

    async def _pump(self) -> None:
        async with contextlib.aclosing(self._source):  # type: ignore[type-var]
            async for item in self._source:
                self._arrived.append(item)
                self._came.set()
                if len(self._arrived) >= _WAITING:
                    self._taken.clear()
                    await self._taken.wait()

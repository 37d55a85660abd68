"""Registers answers with the watermark service, some at a time, after they were given: nobody waits for it.

What waits is in memory: a process that is killed loses the fingerprints of its last moments, never a record.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

import structlog
from moltbot.watermark.v1 import watermark_pb2 as pb

from moltbot_mesh.errors import DeadlineExceeded, MoltbotError, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot.watermark.v1 import watermark_pb2_grpc

log = structlog.get_logger("moltbot.gateway")

_WAITING = 4096
_WAITING_BYTES = 64 << 20
_GATHER_S = 0.1
"""How long an answer waits for others to be registered together with."""
_TOGETHER = 64
_TOGETHER_BYTES = 4 << 20
_CALL_S = 10.0
_CLOSE_S = 5.0
_AGAIN_S = 0.5
_TEMPORARY = (Unavailable, DeadlineExceeded, ResourceExhausted)


class Outputs:
    """Answers that wait to be registered.

    Args:
        watermark: Takes them.
    """

    def __init__(self, watermark: watermark_pb2_grpc.WatermarkServiceAsyncStub) -> None:
        self._watermark = watermark
        self._waiting: deque[pb.RegisterOutputRequest] = deque()
        self._waiting_bytes = 0
        self._came = asyncio.Event()
        self.dropped = 0
        """Because too much waited, or they were refused."""

    def put(self, output: pb.RegisterOutputRequest) -> None:
        """Have an answer registered; never waits."""
        size = len(output.text)
        if len(self._waiting) >= _WAITING or (self._waiting and self._waiting_bytes + size > _WAITING_BYTES):
            self._drop("the watermark service is behind")
            return
        self._waiting.append(output)
        self._waiting_bytes += size
        self._came.set()

    @contextlib.asynccontextmanager
    async def registering(self) -> AsyncGenerator[None]:
        """Register in the background while the context is open; what waits at its end is still sent."""
        task = asyncio.create_task(self._register_all(), name="register-outputs")
        try:
            yield
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    while self._waiting:  # noqa: ASYNC110 - at the end only
                        await asyncio.sleep(0.01)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _register_all(self) -> None:
        while True:
            await self._came.wait()
            await asyncio.sleep(_GATHER_S)
            self._came.clear()
            left = len(self._waiting)  # those that come meanwhile gather again
            while left > 0:
                group = self._group(left)
                left -= len(group)
                await self._register(group)
                for output in group:
                    self._waiting.popleft()
                    self._waiting_bytes -= len(output.text)

    def _group(self, most: int) -> list[pb.RegisterOutputRequest]:
        """The next ones, as many as make a message: at least one."""
        group: list[pb.RegisterOutputRequest] = []
        size = 0
        for output in self._waiting:
            size += len(output.text)
            if group and (len(group) >= min(most, _TOGETHER) or size > _TOGETHER_BYTES):
                break
            group.append(output)
        return group

    async def _register(self, group: list[pb.RegisterOutputRequest]) -> None:
        """Register some; returns when each is bound or refused."""
        while True:
            try:
                answer = await self._watermark.BatchRegisterOutputs(
                    pb.BatchRegisterOutputsRequest(requests=group), timeout=_CALL_S
                )
            except _TEMPORARY as error:
                log.warning("outputs not registered; trying again", outputs=len(group), error=error.message)
                await asyncio.sleep(_AGAIN_S)
            except MoltbotError as error:
                await self._refused(group, error.message)
                return
            except Exception:  # a defect must not end the registering in silence
                log.exception("outputs not registered", outputs=len(group))
                await self._refused(group, "a defect; the log has the rest")
                return
            else:
                for refusal in answer.refusals:
                    self._drop(refusal.message)
                return

    async def _refused(self, group: list[pb.RegisterOutputRequest], why: str) -> None:
        """The call was refused: by one of the group, which must not cost the others."""
        if len(group) == 1:
            self._drop(f"{group[0].request_id}: {why}")
            return
        for output in group:
            await self._register([output])

    def _drop(self, why: str) -> None:
        self.dropped += 1
        if self.dropped in (1, 10, 100) or self.dropped % 1000 == 0:
            log.error("outputs not registered", dropped=self.dropped, reason=why)

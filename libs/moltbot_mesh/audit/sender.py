"""Sends a spill to the audit service, in order, and forgets what it acknowledges."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import grpc
import structlog
from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.errors import AlreadyExists, InvalidArgument, MoltbotError, Unavailable
from moltbot_mesh.errors_wire import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Executor

    from moltbot_mesh.audit.recent import Position
    from moltbot_mesh.audit.spill import Spill

log = structlog.get_logger("moltbot.audit")

_BATCH = 512
_BATCH_BYTES = 256 << 10
_WINDOW = 8
_LINGER_S = 0.1
"""How long spilled events wait for others to be sent with: they are safe, and a batch costs changes of threads."""
_ACK_S = 30.0
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0
_NOT_REACHED = "audit service not reached; events wait in the spill"


class AppendsEvents(Protocol):
    """The part of an `AuditServiceAsyncStub` that is used."""

    @property
    def AppendStream(self) -> Callable[..., Any]:  # noqa: N802
        """Takes an async iterator of requests, returns one of responses."""
        ...


class _Sent(NamedTuple):
    batch_id: int
    until: Position
    events: int


class Sender:
    """The task behind a spill.

    Args:
        stub: Of the audit service.
        spill: Read by this alone.
        threads: For the disk.
        rejected: Told of an event that the service does not take, and why.
    """

    def __init__(
        self,
        stub: AppendsEvents,
        spill: Spill,
        threads: Executor,
        rejected: Callable[[bytes, MoltbotError], None],
    ) -> None:
        self._stub = stub
        self._spill = spill
        self._threads = threads
        self._told_rejected = rejected
        self._more = asyncio.Event()
        self._batch_ids = 0
        self.acknowledged_until = spill.start
        """All before it is in the log."""
        self.acknowledged = 0
        self.rejected = 0
        self._waits_since_s = math.inf if self.idle else time.monotonic()

    @property
    def behind_s(self) -> float:
        """How long events have waited without any being acknowledged, in seconds."""
        return max(0.0, time.monotonic() - self._waits_since_s)

    @property
    def idle(self) -> bool:
        """Whether all that was spilled is acknowledged."""
        return self.acknowledged_until.number >= self._spill.end or self._spill.size_bytes == 0

    def spilled(self) -> None:
        """Tell that there is more to send."""
        if self._waits_since_s == math.inf:
            self._waits_since_s = time.monotonic()
        self._more.set()

    async def run(self) -> None:
        """Send until cancelled; an outage of the audit service is waited for."""
        delay_s = _FIRST_RETRY_S
        down = False
        while True:
            before = self.acknowledged
            try:
                await self._stream()
            except (InvalidArgument, AlreadyExists):
                await self._isolate_first()
                continue
            except Exception as error:  # whatever it was, the events wait in the spill
                if self.acknowledged > before:
                    delay_s, down = _FIRST_RETRY_S, False
                if not down:
                    expected = isinstance(error, MoltbotError | OSError | TimeoutError)
                    log.warning(_NOT_REACHED, error=str(error), exc_info=not expected)
                    down = True
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            delay_s = min(2 * delay_s, _LAST_RETRY_S)

    async def _in_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def _stream(self) -> None:
        """One stream, until it ends."""
        sent: deque[_Sent] = deque()
        room = asyncio.Semaphore(_WINDOW)
        loop = asyncio.get_running_loop()

        async with asyncio.timeout(None) as patience:

            async def batches() -> AsyncIterator[audit_pb2.AppendStreamRequest]:
                position = self.acknowledged_until
                while True:
                    await room.acquire()
                    payloads, position = await self._next(position)
                    self._batch_ids += 1
                    if not sent:
                        patience.reschedule(loop.time() + _ACK_S)
                    sent.append(_Sent(self._batch_ids, position, len(payloads)))
                    yield audit_pb2.AppendStreamRequest(batch_id=self._batch_ids, events=payloads)

            call = self._stub.AppendStream(batches())
            try:
                async for response in call:
                    if not sent or response.batch_id != sent[0].batch_id:
                        raise Unavailable("the audit service acknowledged a batch that was not the next one")
                    done = sent.popleft()
                    patience.reschedule(loop.time() + _ACK_S if sent else None)
                    room.release()
                    self.acknowledged += done.events
                    await self._acknowledge(done.until)
            except grpc.aio.AioRpcError as error:  # of a channel that is not the mesh's
                raise from_rpc_error(error, "audit") from None
            finally:
                call.cancel()
        raise Unavailable("the audit service ended the stream")

    async def _next(self, position: Position) -> tuple[list[bytes], Position]:
        """The next batch, when there is one."""
        while True:
            self._more.clear()
            try:
                newest = self._spill.newest(position, _BATCH, _BATCH_BYTES)
                payloads, position = newest or await self._in_thread(self._spill.read, position, _BATCH, _BATCH_BYTES)
            except OSError as error:
                log.warning("audit spill not read; trying again", error=str(error))
                await asyncio.sleep(_LAST_RETRY_S)
                continue
            if payloads:
                return payloads, position
            await self._more.wait()
            await asyncio.sleep(_LINGER_S)

    async def _acknowledge(self, until: Position) -> None:
        self.acknowledged_until = until
        self._waits_since_s = math.inf if self.idle else time.monotonic()
        if not self._spill.frees(until):
            return
        try:
            await self._in_thread(self._spill.release, until)
        except OSError as error:
            log.warning("acknowledged audit events not removed from the spill", error=str(error))

    async def _isolate_first(self) -> None:
        """A batch was refused as not valid, the first unacknowledged one: find which of its events it is."""
        payloads, until = await self._next(self.acknowledged_until)
        try:
            await self._halve(payloads)
        except (MoltbotError, OSError, TimeoutError) as error:
            log.warning(_NOT_REACHED, error=str(error))
            await asyncio.sleep(_FIRST_RETRY_S)
            return
        await self._acknowledge(until)

    async def _halve(self, payloads: list[bytes]) -> None:
        try:
            await self._send_once(payloads)
        except (InvalidArgument, AlreadyExists) as error:
            if len(payloads) > 1:
                middle = len(payloads) // 2
                await self._halve(payloads[:middle])
                await self._halve(payloads[middle:])
                return
            await self._in_thread(self._spill.reject, payloads[0])
            self.rejected += 1
            log.critical("audit event rejected; it is kept in rejected/", error=error.message)
            self._told_rejected(payloads[0], error)
        else:
            self.acknowledged += len(payloads)

    async def _send_once(self, payloads: list[bytes]) -> None:
        async def one() -> AsyncIterator[audit_pb2.AppendStreamRequest]:
            yield audit_pb2.AppendStreamRequest(batch_id=0, events=payloads)

        call = self._stub.AppendStream(one())
        try:
            async with asyncio.timeout(_ACK_S):
                async for _ in call:
                    return
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "audit") from None
        finally:
            call.cancel()
        raise Unavailable("the audit service ended the stream")

"""How a service records what happens: at once, without waiting, and without losing it.

`emit_now` writes what a request caused to a spill: a killed process loses nothing that it has answered. `emit` numbers
an event and queues it; a task spills what is queued, in batches. Another task sends the spill to the audit service and
forgets what it acknowledges. Nobody on a request's path waits for either. `emit_durable` returns when the event is on
disk: for what must not happen unrecorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import structlog
from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.audit.queued import Gap, Queued
from moltbot_mesh.audit.sender import AppendsEvents, Sender
from moltbot_mesh.audit.spill import Spill, open_spill
from moltbot_mesh.errors import InvalidArgument, MoltbotError, Unavailable
from moltbot_mesh.uuid7 import uuid7, uuid_text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from moltbot.audit.v1 import audit_pb2

log = structlog.get_logger("moltbot.audit")

OnFull = Literal["block_high_risk", "block_all"]
"""What a full spill stops: only what must be durable before it happens, or everything. The first drops other events,
counted, with an alarm and a gap record."""

_LINGER_S = 0.02
"""How long an event waits for others to be spilled with, unless they make a batch. A batch costs changes of threads on
its way into the log, and that is most of what an event costs."""
_RETRY_S = 0.2
_BATCH = 2048
_RESERVED_SHARE = 10
_MOST_BYTES = 65_536 - 64
"""Of an event before it is numbered; the service takes 65,536."""


@dataclass(frozen=True, slots=True)
class ProducerStats:
    """What became of the events so far."""

    emitted: int
    acknowledged: int
    """By the audit service, those of earlier runs among them."""
    dropped: int
    """Because queue and spill were full."""
    rejected: int
    """By the audit service as not valid; kept beside the spill."""
    queued: int
    """In memory."""
    spill_bytes: int
    """On disk."""


class AuditProducer:
    """Records the events of one service. Emit from any thread; all else from the loop it runs in.

    Args:
        stub: Of the audit service.
        directory: For the spill; another instance that has it open makes this one take the next, `<directory>-2`.
        service: Name of the service, for events that do not say it.
        instance: Likewise.
        queue_events: Most events in memory.
        spill_bytes: Most bytes on disk; a tenth of it is reserved for durable events.
        on_full: What a full spill stops.
        drain_s: How long closing waits for acknowledgements, in seconds; what is not acknowledged then is sent after
            the next start.
    """

    def __init__(
        self,
        stub: AppendsEvents,
        directory: Path,
        service: str,
        instance: str,
        *,
        queue_events: int = 65_536,
        spill_bytes: int = 256 << 20,
        on_full: OnFull = "block_high_risk",
        drain_s: float = 5.0,
    ) -> None:
        self._stub = stub
        self._directory = directory
        self._service = service
        self._instance = instance
        self._queue_events = queue_events
        self._batch = min(_BATCH, queue_events // 2)
        self._spill_bytes = spill_bytes
        self._on_full: OnFull = on_full
        self._drain_s = drain_s
        self._queue: deque[Queued] = deque()
        self._durable: deque[Queued] = deque()
        self._spilling = 0
        """Events that are being written."""
        self._counters = itertools.count(1)
        self._emitted = 0
        self._gap = Gap()
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0
        self._closed = False
        self._spill: Spill | None = None
        self._sender: Sender | None = None
        self.problem = ""
        """Why events cannot be spilled now; empty when they can."""

    @property
    def stats(self) -> ProducerStats:
        """What became of the events so far."""
        sender, spill = self._sender, self._spill
        return ProducerStats(
            self._emitted,
            sender.acknowledged if sender else 0,
            self._gap.dropped,
            sender.rejected if sender else 0,
            len(self._queue) + len(self._durable) + self._spilling,
            spill.size_bytes if spill else 0,
        )

    def emit(self, event: audit_pb2.AuditEvent) -> str:
        """Record an event; never waits. It outlives this process some milliseconds later, when it is spilled.

        Args:
            event: Not to be changed afterwards. Id, time, service and instance are filled in where they are empty.

        Returns:
            Its id as text.

        Raises:
            InvalidArgument: It lacks a field that every event must have, or is too large.
            Unavailable: There is no room for it and the policy is `block_all`, or the producer is closed.
        """
        self._complete(event)
        self._put(Queued(event, next(self._counters)))
        return uuid_text(event.event_id)

    def _put(self, queued: Queued) -> None:
        self._emitted += 1
        if len(self._queue) >= self._queue_events or self._closed:
            self._drop(queued.counter)
            if self._closed or self._on_full == "block_all":
                raise self._full()
        else:
            self._queue.append(queued)
            self._notify(self._wake)
            if len(self._queue) == self._batch:
                self._notify(self._urgent)

    def emit_now(self, events: Sequence[audit_pb2.AuditEvent]) -> None:
        """Record events together; they outlive this process when this returns. From the loop alone.

        One write to the page cache, some microseconds. While the spill is in trouble or written to by others, the
        events wait in memory like those of `emit`.

        Args:
            events: As in `emit`.

        Raises:
            InvalidArgument: As `emit`; then none is recorded.
            Unavailable: As `emit`.
        """
        for event in events:
            self._complete(event)
        fresh = [Queued(event, next(self._counters)) for event in events]
        if self._spill is not None and not (self._closed or self._spilling or self._durable or self.problem):
            waiting = [self._queue.popleft() for _ in range(len(self._queue))]  # other threads may add to it meanwhile
            try:
                self._write(self._spill, waiting + fresh)
            except MoltbotError as error:
                self._queue.extendleft(reversed(waiting))
                log.warning("audit events not spilled at once", service=self._service, error=error.message)
            else:
                self._emitted += len(events)
                assert self._sender is not None
                self._sender.spilled()
                return
        for queued in fresh:  # by the numbers that they have: one left out would be a gap
            self._put(queued)

    async def emit_durable(self, event: audit_pb2.AuditEvent) -> str:
        """Record an event and wait until it is on disk: do what it tells only then.

        Returns:
            Its id as text.

        Raises:
            InvalidArgument: It lacks a field that every event must have, or is too large.
            Unavailable: It could not be recorded: what it tells must not happen.
        """
        self._complete(event)
        if self._loop is None or self._closed:
            raise self._full()
        self._emitted += 1
        queued = Queued(event, next(self._counters), self._loop.create_future())
        self._durable.append(queued)
        self._wake.set()
        self._urgent.set()
        assert queued.durable is not None
        await queued.durable
        return uuid_text(event.event_id)

    def admit(self) -> None:
        """Ask before a request is served whether it can be recorded.

        Raises:
            Unavailable: There is no room and the policy is `block_all`.
        """
        if self._on_full == "block_all" and (self.problem or len(self._queue) >= self._queue_events):
            raise self._full()

    def _complete(self, event: audit_pb2.AuditEvent) -> None:
        if not event.event_id:
            event.event_id = uuid7()
        if not event.time_unix_ns:
            event.time_unix_ns = time.time_ns()
        if not event.service:
            event.service = self._service
        if not event.instance:
            event.instance = self._instance
        if not (event.type and event.outcome and event.subject and event.action):
            raise InvalidArgument("an audit event must have type, outcome, subject and action")
        if event.ByteSize() > _MOST_BYTES:
            raise InvalidArgument(f"an audit event has {event.ByteSize()} bytes; at most {_MOST_BYTES} are possible")

    def _full(self) -> Unavailable:
        why = "it is closed" if self._closed or self._loop is None else self.problem or "its queue is full"
        return Unavailable(f"audit events cannot be recorded: {why}", reason="AUDIT_UNAVAILABLE", retry_after_s=1.0)

    def _notify(self, flag: asyncio.Event) -> None:
        if self._loop is None or flag.is_set():
            return
        if threading.get_ident() == self._thread_id:
            flag.set()
        else:
            self._loop.call_soon_threadsafe(flag.set)

    def _drop(self, counter: int) -> None:
        dropped = self._gap.add(counter)
        if dropped in (1, 10, 100) or dropped % 1000 == 0:
            log.critical("audit events dropped", service=self._service, dropped=dropped, problem=self.problem)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[AuditProducer]:
        """Spill and send while the context is open; what earlier runs left is sent first.

        Raises:
            Unavailable: The spill cannot be opened.
            DataLoss: The producer's identity is damaged.
        """
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2, thread_name_prefix="audit-spill") as threads:
            spill = await loop.run_in_executor(threads, open_spill, self._directory, self._spill_bytes)
            sender = Sender(self._stub, spill, threads)
            self._spill, self._sender = spill, sender
            self._thread_id, self._loop = threading.get_ident(), loop
            self._wake.set()
            tasks = [
                asyncio.create_task(self._spill_all(spill, sender, threads), name="audit-spill"),
                asyncio.create_task(sender.run(), name="audit-send"),
            ]
            try:
                yield self
            finally:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._drain_s):
                        await self._drained(sender, tasks)
                self._closed = True
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                self._tell_gap()
                await self._spill_rest(spill, threads)
                await loop.run_in_executor(threads, spill.close, sender.acknowledged_until)

    async def _spill_rest(self, spill: Spill, threads: ThreadPoolExecutor) -> None:
        batch = self._take(all_of_it=True)
        try:
            await asyncio.get_running_loop().run_in_executor(threads, self._write, spill, batch)
        except MoltbotError as error:
            self.problem = error.message
            for queued in batch:
                self._drop(queued.counter)
                queued.settle(self._full())
        else:
            for queued in batch:
                queued.settle(None)

    async def _drained(self, sender: Sender, tasks: list[asyncio.Task[None]]) -> None:
        while not any(task.done() for task in tasks):
            if self.stats.queued == 0 and not self._gap and sender.idle:
                return
            await asyncio.sleep(0.01)

    async def _spill_all(self, spill: Spill, sender: Sender, threads: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            if not self._urgent.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LINGER_S):
                        await self._urgent.wait()
            self._wake.clear()
            self._urgent.clear()
            while batch := self._take():
                self._spilling = len(batch)
                try:
                    await loop.run_in_executor(threads, self._write, spill, batch)
                except MoltbotError as error:
                    await self._put_back(batch, error)
                except Exception:  # a defect must not end the recording in silence
                    log.exception("audit events not spilled", service=self._service)
                    await self._put_back(batch, Unavailable("spilling failed; the log has the rest"))
                except asyncio.CancelledError:
                    self._queue.extendleft(reversed(batch))  # written twice at worst, with the same ids
                    raise
                else:
                    self._spilled(batch)
                    sender.spilled()
                    if len(batch) < _BATCH and not self._durable and not self.problem:
                        break  # what came meanwhile has its own linger
                finally:
                    self._spilling = 0

    def _take(self, *, all_of_it: bool = False) -> list[Queued]:
        """The next events to spill; when the spill refuses, durable ones alone."""
        durable = [self._durable.popleft() for _ in range(len(self._durable))]
        most = len(self._queue) if all_of_it else 0 if self.problem and durable else _BATCH
        ordinary = [self._queue.popleft() for _ in range(min(len(self._queue), most))]
        return sorted(durable + ordinary, key=lambda queued: queued.counter) if durable else ordinary

    def _spilled(self, batch: list[Queued]) -> None:
        if self.problem and (batch[-1].durable is None or not self._queue):
            log.info("audit events are spilled again", service=self._service)
            self.problem = ""
        for queued in batch:
            queued.settle(None)
        if not self.problem:
            self._tell_gap()

    async def _put_back(self, batch: list[Queued], error: MoltbotError) -> None:
        """The spill does not take a batch: ordinary events wait; durable ones are tried alone, then refused."""
        if not self.problem:
            log.critical("audit events cannot be spilled", service=self._service, error=error.message)
        self.problem = error.message
        durable = [queued for queued in batch if queued.durable is not None]
        if len(durable) == len(batch):
            for queued in durable:
                self._drop(queued.counter)
                queued.settle(self._full())
            return
        self._durable.extendleft(reversed(durable))
        self._queue.extendleft(queued for queued in reversed(batch) if queued.durable is None)
        if not durable:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await self._urgent.wait()
            self._urgent.clear()

    def _write(self, spill: Spill, batch: list[Queued]) -> None:
        """Serialise and write a batch. Runs in a thread."""
        payloads: list[bytes] = []
        for queued in batch:
            producer = queued.event.producer
            producer.producer_id, producer.epoch, producer.counter = spill.producer_id, spill.epoch, queued.counter
            payload = queued.event.SerializeToString(deterministic=True)
            payloads.append(payload)
        durable = sum(queued.durable is not None for queued in batch)
        reserve = self._spill_bytes // _RESERVED_SHARE if durable < len(batch) else 0
        if payloads:
            spill.append(payloads, sync=durable > 0, reserve_bytes=reserve)

    def _tell_gap(self) -> None:
        event = self._gap.take(self._service)
        if event is not None:
            self._complete(event)
            self._queue.append(Queued(event, next(self._counters)))
            self._wake.set()

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
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog
from google.protobuf.message import DecodeError
from moltbot.audit.v1 import audit_pb2

from moltbot_mesh.audit.event_queue import EventQueue
from moltbot_mesh.audit.producer_stats import ProducerStats
from moltbot_mesh.audit.queued import Queued, gap_event
from moltbot_mesh.audit.sender import AppendsEvents, Sender
from moltbot_mesh.audit.spill import Spill, open_spill
from moltbot_mesh.audit.spilling import Spilling, not_recorded
from moltbot_mesh.audit.unspilled import UnspilledMarks
from moltbot_mesh.errors import InvalidArgument, MoltbotError, Unavailable
from moltbot_mesh.uuid7 import uuid7, uuid_text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from moltbot_mesh.audit.settings import OnFull

log = structlog.get_logger("moltbot.audit")

_RESERVED_SHARE = 10
_ALARM_S = 10.0
_UNSPILLED_FILE = "unspilled"
_MOST_BYTES = 65_536 - 64
"""Of an event before it is numbered; the service takes 65,536."""


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
        self._spill_bytes = spill_bytes
        self._on_full: OnFull = on_full
        self._drain_s = drain_s
        self._queue = EventQueue(service, queue_events)
        self._counters = itertools.count(1)
        self._emitted = 0
        self._closed = False
        # From when it runs.
        self._spill: Spill | None = None
        self._sender: Sender | None = None
        self._spilling: Spilling | None = None

    @property
    def problem(self) -> str:
        """Why events cannot be spilled now; empty when they can."""
        return self._spilling.problem if self._spilling else ""

    @property
    def refuses(self) -> str:
        """Why every request is refused now; empty when none is, or only those that must not happen unrecorded."""
        if self._on_full == "block_all" and (self.problem or self._queue.is_full):
            return self.problem or "the queue of audit events is full"
        return ""

    @property
    def alarm(self) -> str:
        """What somebody should look at, in words; empty when all is well."""
        stats = self.stats
        if self.problem:
            return f"audit: records cannot be kept: {self.problem}; {stats.dropped} were dropped"
        if stats.behind_s >= _ALARM_S or 2 * stats.spill_bytes >= self._spill_bytes:
            share = 100 * stats.spill_bytes // self._spill_bytes
            return f"audit: records have waited for {stats.behind_s:.0f} s; the spill is {share} % full"
        return ""

    @property
    def stats(self) -> ProducerStats:
        """What became of the events so far."""
        sender, spill, spilling = self._sender, self._spill, self._spilling
        return ProducerStats(
            self._emitted,
            sender.acknowledged if sender else 0,
            self._queue.gap.dropped,
            sender.rejected if sender else 0,
            len(self._queue) + (spilling.writing if spilling else 0),
            spill.size_bytes if spill else 0,
            sender.behind_s if sender else 0.0,
            self._spill_bytes,
            bool(self.problem),
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
        self._put(self._numbered(event))
        return uuid_text(event.event_id)

    def _put(self, queued: Queued) -> None:
        self._emitted += 1
        if self._closed or not self._queue.has_room(queued.event):
            self._queue.drop(queued.counter, self.problem)
            if self._closed or self._on_full == "block_all":
                raise self._full()
        else:
            self._queue.put(queued)

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
        spilling = self._spilling
        if spilling is not None and not (
            self._closed or spilling.writing or self._queue.has_durable or spilling.problem
        ):
            waiting = self._queue.take()
            try:
                spilling.write(waiting + fresh)
            except MoltbotError as error:
                self._queue.put_back(waiting)
                log.warning("audit events not spilled at once", service=self._service, error=error.message)
            else:
                self._emitted += len(events)
                assert self._sender is not None
                self._sender.spilled()
                return
        refused: Unavailable | None = None
        for queued in fresh:  # by the numbers that they have, and all: one left out would be a gap that nobody declares
            try:
                self._put(queued)
            except Unavailable as error:
                refused = error
        if refused is not None:
            raise refused

    async def emit_durable(self, event: audit_pb2.AuditEvent) -> str:
        """Record an event and wait until it is on disk: do what it tells only then.

        Returns:
            Its id as text.

        Raises:
            InvalidArgument: It lacks a field that every event must have, or is too large.
            Unavailable: It could not be recorded: what it tells must not happen.
        """
        self._complete(event)
        if self._spilling is None or self._closed:
            raise self._full()
        self._emitted += 1
        on_disk: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_durable(Queued(event, next(self._counters), on_disk))
        await on_disk
        return uuid_text(event.event_id)

    def admit(self) -> None:
        """Ask before a request is served whether it can be recorded.

        Raises:
            Unavailable: There is no room and the policy is `block_all`.
        """
        if self.refuses:
            raise self._full()

    def _numbered(self, event: audit_pb2.AuditEvent) -> Queued:
        self._complete(event)
        return Queued(event, next(self._counters))

    def _declare_rejected(self, payload: bytes, error: MoltbotError) -> None:
        """Have an event that the log does not take stand there as a gap, unless it was one itself."""
        try:
            event = audit_pb2.AuditEvent.FromString(payload)
        except DecodeError:  # it has no number that could be told
            return
        if event.type != audit_pb2.EVENT_TYPE_GAP:
            by = event.producer
            gap = gap_event(self._service, by.counter, by.counter, 1, by.epoch, error.reason)
            self._queue.put(self._numbered(gap))

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
        open_ = self._spilling is not None and not self._closed
        return not_recorded(self.problem or "its queue is full" if open_ else "it is closed")

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
            sender = Sender(self._stub, spill, threads, self._declare_rejected)
            reserve_bytes = self._spill_bytes // _RESERVED_SHARE
            marks = await loop.run_in_executor(threads, UnspilledMarks, spill.directory / _UNSPILLED_FILE)
            spilling = Spilling(
                self._service, self._queue, spill, reserve_bytes, marks, sender, threads, self._numbered
            )
            self._spill, self._sender, self._spilling = spill, sender, spilling
            self._queue.begin()
            tasks = [
                asyncio.create_task(spilling.run(), name="audit-spill"),
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
                await spilling.spill_rest()
                await loop.run_in_executor(threads, spill.close, sender.acknowledged_until)

    async def _drained(self, sender: Sender, tasks: list[asyncio.Task[None]]) -> None:
        while not any(task.done() for task in tasks):
            if self.stats.queued == 0 and not self._queue.gap and sender.idle:
                return
            await asyncio.sleep(0.01)

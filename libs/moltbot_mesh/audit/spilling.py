"""From the queue to the spill: in batches, and with patience while the spill is in trouble."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from moltbot_mesh.audit.event_queue import BATCH
from moltbot_mesh.audit.queued import gap_event
from moltbot_mesh.errors import MoltbotError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from moltbot.audit.v1 import audit_pb2

    from moltbot_mesh.audit.event_queue import EventQueue
    from moltbot_mesh.audit.queued import Queued
    from moltbot_mesh.audit.sender import Sender
    from moltbot_mesh.audit.spill import Spill
    from moltbot_mesh.audit.unspilled import UnspilledMarks

log = structlog.get_logger("moltbot.audit")

_LINGER_S = 0.02
"""How long an event waits for others to be spilled with, unless they make a batch. A batch costs changes of threads on
its way into the log, and that is most of what an event costs."""
_RETRY_S = 0.2


def not_recorded(why: str) -> Unavailable:
    """The error of who asked for what cannot be recorded."""
    return Unavailable(f"audit events cannot be recorded: {why}", reason="AUDIT_UNAVAILABLE", retry_after_s=1.0)


class Spilling:
    """The task between queue and spill.

    Args:
        service: Whose events.
        queue: Taken from.
        spill: Written.
        reserve_bytes: Of the spill, for durable events alone.
        marks: Remember where events stopped reaching the disk.
        sender: Told of what was spilled.
        threads: For the disk.
        numbered: Completes and numbers an event: that of a gap.
    """

    def __init__(
        self,
        service: str,
        queue: EventQueue,
        spill: Spill,
        reserve_bytes: int,
        marks: UnspilledMarks,
        sender: Sender,
        threads: Executor,
        numbered: Callable[[audit_pb2.AuditEvent], Queued],
    ) -> None:
        self._service = service
        self._queue = queue
        self._spill = spill
        self._reserve_bytes = reserve_bytes
        self._marks = marks
        self._sender = sender
        self._threads = threads
        self._numbered = numbered
        self.writing = 0
        """Events that are being written."""
        self.problem = ""
        """Why events cannot be spilled now; empty when they can."""

    async def run(self) -> None:
        """Spill until cancelled."""
        loop = asyncio.get_running_loop()
        self._tell_what_ended_unspilled()
        while True:
            await self._queue.gathered(_LINGER_S)
            while batch := self._queue.take(BATCH, durable_alone=bool(self.problem)):
                self.writing = len(batch)
                try:
                    await loop.run_in_executor(self._threads, self.write, batch)
                except MoltbotError as error:
                    await self._put_back(batch, error)
                except Exception:  # a defect must not end the recording in silence
                    log.exception("audit events not spilled", service=self._service)
                    await self._put_back(batch, Unavailable("spilling failed; the log has the rest"))
                except asyncio.CancelledError:
                    self._queue.put_back(batch)  # written twice at worst, with the same ids
                    raise
                else:
                    self._spilled(batch)
                    self._sender.spilled()
                    if len(batch) < BATCH and not self._queue.has_durable and not self.problem:
                        break  # what came meanwhile has its own linger
                finally:
                    self.writing = 0
            if self._marks.left and not (self.problem or self._queue or self._queue.gap):
                await loop.run_in_executor(self._threads, self._forget_unspilled)

    async def spill_rest(self) -> None:
        """Write all that waits, once: the end of a producer."""
        self.tell_gap()
        batch = self._queue.take()
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self.write, batch)
        except MoltbotError as error:
            if not self.problem:
                await asyncio.get_running_loop().run_in_executor(self._threads, self._mark_unspilled, batch)
            self.problem = error.message
            for queued in batch:
                self._queue.drop(queued.counter, self.problem)
                queued.settle(not_recorded("it is closed"))
        else:
            for queued in batch:
                queued.settle(None)

    def write(self, batch: list[Queued]) -> None:
        """Serialise and write a batch: in a thread, or in the loop where nothing else is written.

        Raises:
            MoltbotError: The spill does not take it; nothing was written.
        """
        payloads: list[bytes] = []
        for queued in batch:
            producer = queued.event.producer
            producer.producer_id, producer.epoch = self._spill.producer_id, self._spill.epoch
            producer.counter = queued.counter
            payloads.append(queued.event.SerializeToString(deterministic=True))
        durable = sum(queued.durable is not None for queued in batch)
        reserve = self._reserve_bytes if durable < len(batch) else 0
        if payloads:
            self._spill.append(payloads, sync=durable > 0, reserve_bytes=reserve)

    def tell_gap(self) -> None:
        """Have the events that were dropped stand in the log as a gap."""
        event = self._queue.gap.take(self._service)
        if event is not None:
            self._queue.put(self._numbered(event))

    def _tell_what_ended_unspilled(self) -> None:
        """Have what earlier runs could not spill before they ended stand in the log: from where on, not how much."""
        for epoch, first in self._marks.left:
            log.critical("audit events of an earlier run were lost", service=self._service, epoch=epoch, first=first)
            self._queue.put(self._numbered(gap_event(self._service, first, None, None, epoch)))

    def _mark_unspilled(self, batch: list[Queued]) -> None:
        try:
            self._marks.add(self._spill.epoch, min(queued.counter for queued in batch))
        except OSError as error:
            log.error("not remembered that audit events are not on disk", service=self._service, error=str(error))

    def _forget_unspilled(self) -> None:
        try:
            self._marks.clear()
        except OSError as error:  # then the next start declares more than is missing
            log.warning("mark of unspilled audit events not removed", service=self._service, error=str(error))

    def _spilled(self, batch: list[Queued]) -> None:
        if self.problem and (batch[-1].durable is None or not self._queue.has_ordinary):
            log.info("audit events are spilled again", service=self._service)
            self.problem = ""
        for queued in batch:
            queued.settle(None)
        if not self.problem:
            self.tell_gap()

    async def _put_back(self, batch: list[Queued], error: MoltbotError) -> None:
        """The spill does not take a batch: ordinary events wait; durable ones are tried alone, then refused."""
        first = not self.problem
        self.problem = error.message
        durable = [queued for queued in batch if queued.durable is not None]
        if len(durable) == len(batch):
            for queued in durable:
                self._queue.drop(queued.counter, self.problem)
                queued.settle(not_recorded(self.problem))
        else:
            self._queue.put_back(batch)
        if first:
            log.critical("audit events cannot be spilled", service=self._service, error=error.message)
            await asyncio.get_running_loop().run_in_executor(self._threads, self._mark_unspilled, batch)
        if not durable:
            await self._queue.rest(_RETRY_S)

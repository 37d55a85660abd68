"""Group commit: one thread takes all that waits, writes it, syncs once, and answers.

There is no linger: a batch waits only while the one before it is being synced.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from moltbot_audit.merkle import leaf_hash
from moltbot_audit.records import Committed, row
from moltbot_audit.segment import read_at, segment_name
from moltbot_mesh.errors import AlreadyExists, Internal, InvalidArgument, MoltbotError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moltbot_audit.backlog import Backlog
    from moltbot_audit.records import Place, Record
    from moltbot_audit.seen import Seen
    from moltbot_audit.segment import SegmentWriter

    Answer = list[int] | MoltbotError
    Done = Callable[[Answer], None]

log = structlog.get_logger("moltbot.audit")

_WAITING_RECORDS = 262_144
_WAITING_BYTES = 256 << 20
_GROUP_RECORDS = 8192
_GROUP_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class _Job:
    records: Sequence[Record]
    size_bytes: int
    done: Done


class Committer:
    """The thread that writes.

    Args:
        writer: Of the segments.
        seen: Knows what stands.
        behind: Get what was written.
    """

    def __init__(self, writer: SegmentWriter, seen: Seen, behind: Sequence[Backlog]) -> None:
        self._writer = writer
        self._seen = seen
        self._behind = behind
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_records = 0
        self._waiting_bytes = 0
        self._closed = False
        self.problem = ""
        """Why records are refused now; empty when they are taken."""
        self._thread = threading.Thread(target=self._run, name="audit-commit", daemon=True)
        self._thread.start()

    def submit(self, records: Sequence[Record], done: Done) -> None:
        """Append records, all or none; never blocks.

        Args:
            records: At least one.
            done: Called once, from any thread, with their sequences or with why they were refused.
        """
        size = 0
        for record in records:
            size += len(record.payload)
            if not 0 < len(record.payload) <= self._writer.max_payload_bytes:
                done(InvalidArgument(f"a record has {len(record.payload)} bytes; at most "
                                     f"{self._writer.max_payload_bytes} are taken"))  # fmt: skip
                return
        with self._lock:
            refused = (
                self._closed
                or self._waiting_records + len(records) > _WAITING_RECORDS
                or self._waiting_bytes + size > _WAITING_BYTES
            )
            if not refused:
                self._waiting_records += len(records)
                self._waiting_bytes += size
                self._jobs.put(_Job(records, size, done))
        if refused:
            why = "is closing" if self._closed else "has too much to write"
            done(Unavailable(f"the audit log {why}; try again", reason="AUDIT_UNAVAILABLE", retry_after_s=1.0))

    def _run(self) -> None:
        open_ = True
        while open_:
            job = self._jobs.get()
            group: list[_Job] = []
            records = size = 0
            while True:
                if job is None:
                    open_ = False
                    break
                group.append(job)
                records += len(job.records)
                size += job.size_bytes
                if records >= _GROUP_RECORDS or size >= _GROUP_BYTES:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if group:
                self._commit(group)
                with self._lock:
                    self._waiting_records -= records
                    self._waiting_bytes -= size

    def _commit(self, group: Sequence[_Job]) -> None:
        try:
            answers, committed = self._write(group)
        except Exception:  # whoever waits must be answered, whatever it was
            log.exception("audit records refused", records=sum(len(job.records) for job in group))
            self.problem = "the audit log failed; its own log has the rest"
            answers, committed = [Internal(self.problem, reason="AUDIT_UNAVAILABLE")] * len(group), None
        for job, answer in zip(group, answers, strict=True):
            try:
                job.done(answer)
            except Exception as error:  # such as a loop that was closed: the others still wait
                log.warning("nobody took an acknowledgement", exc_info=error)
        if committed is not None:
            for backlog in self._behind:
                backlog.put(committed)

    def _write(self, group: Sequence[_Job]) -> tuple[list[Answer], Committed | None]:
        known = self._seen.find(record.event_id for job in group for record in job.records)
        fresh: dict[bytes, tuple[int, Record]] = {}
        answers: list[Answer] = []
        for job in group:
            try:
                answers.append(self._sequences(job.records, known, fresh))
            except MoltbotError as error:
                answers.append(error)
        if not fresh:
            return answers, None
        records = [record for _, record in fresh.values()]
        payloads = [record.payload for record in records]
        try:
            places = self._writer.append(payloads)
        except MoltbotError as error:
            if not self.problem:
                log.critical("audit records refused", error=error.message, records=len(records))
            self.problem = error.message
            return [error if not isinstance(answer, MoltbotError) else answer for answer in answers], None
        if self.problem:
            log.info("audit records are taken again")
            self.problem = ""
        committed = Committed(list(map(row, places, records)), list(map(leaf_hash, payloads)))
        self._seen.add(committed.rows)
        return answers, committed

    def _sequences(
        self, records: Sequence[Record], known: dict[bytes, Place], fresh: dict[bytes, tuple[int, Record]]
    ) -> list[int]:
        """The sequences of a job's records, new ones numbered behind `fresh`, which grows only if none is refused."""
        new: dict[bytes, tuple[int, Record]] = {}
        following = self._writer.next_sequence + len(fresh)
        sequences: list[int] = []
        for record in records:
            event_id = record.event_id
            place = known.get(event_id)
            if place is not None:
                sequence, stands = place.sequence, self._stored(place)
            elif (before := fresh.get(event_id) or new.get(event_id)) is not None:
                sequence, stands = before[0], before[1].payload
            else:
                new[event_id] = (following, record)
                sequences.append(following)
                following += 1
                continue
            if stands != record.payload:
                raise AlreadyExists(
                    f"event {event_id.hex()} stands with another body, as record {sequence}",
                    reason="IDEMPOTENCY_CONFLICT",
                )
            sequences.append(sequence)
        fresh.update(new)
        return sequences

    def _stored(self, place: Place) -> bytes:
        return read_at(self._writer.directory / segment_name(place.segment), place.sequence, place.offset)

    def close(self) -> None:
        """Write what waits, and end."""
        for backlog in self._behind:
            backlog.release()
        with self._lock:
            self._closed = True
            self._jobs.put(None)
        self._thread.join()

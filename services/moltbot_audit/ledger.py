"""The log: records in, sequences and proofs out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_audit import merkle
from moltbot_audit.attestations import Attestations
from moltbot_audit.catch_up import CatchUp
from moltbot_audit.checkpoint import Checkpoint, Signer, parse, verify
from moltbot_audit.commit import Committer
from moltbot_audit.expiry import expire, expiring, read_horizon
from moltbot_audit.index import Index
from moltbot_audit.indexer import Indexer
from moltbot_audit.integrate import Integrator
from moltbot_audit.records import Filter, Logged, Place, Record
from moltbot_audit.seen import Seen
from moltbot_audit.segment import Damage, SegmentWriter, read, read_at, segment_name, segments
from moltbot_audit.tiles import Tree
from moltbot_audit.verify import CHECKPOINT_FILE, KEY_FILE, VerifyReport, verify_directory
from moltbot_mesh.durable import replace_durably
from moltbot_mesh.errors import DataLoss, FailedPrecondition, MoltbotError, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from moltbot_audit.commit import Answer, Done
    from moltbot_audit.disk import Disk

_INDEX_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Proof:
    """That a record is in the log."""

    sequence: int
    size: int
    """Of the tree."""
    hashes: tuple[bytes, ...]
    """From the leaf up, 32 bytes each."""
    checkpoint: str
    """The signed tree head."""
    record: bytes


class Ledger:
    """The log of one installation. Its methods may be called from any thread; all but `submit` block.

    Args:
        directory: Segments, tiles, checkpoint and index stand below it.
        signer: Signs checkpoints.
        decode: Reads a payload's keys, to index it again.
        segment_bytes: Size of a segment.
        checkpoint_interval_s: Least time between two checkpoints, in seconds.
        sync: Whether an acknowledgement waits for the disk.
        disk: Under the segments; the operating system's, or a test's.

    Raises:
        DataLoss: Acknowledged records are damaged or missing.
        Unavailable: Another process has the log open, or the disk fails.
        ResourceExhausted: The disk is full.
    """

    def __init__(
        self,
        directory: Path,
        signer: Signer,
        decode: Callable[[bytes], Record],
        segment_bytes: int = 64 << 20,
        checkpoint_interval_s: float = 1.0,
        *,
        sync: bool = True,
        disk: Disk | None = None,
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self._segments = directory / "segments"
        self._signer = signer
        self._opened = contextlib.ExitStack()
        _lock(directory, self._opened)
        try:
            note, covered = self._read_checkpoint()
            writer = SegmentWriter(self._segments, segment_bytes, sync=sync, disk=disk)
            self._writer = self._opened.enter_context(contextlib.closing(writer))
            self._writer.recover(covered)
            self._tree = Tree(directory)
            self._index = self._opened.enter_context(contextlib.closing(Index(directory / "index.sqlite")))
            horizon = read_horizon(directory, signer.verifier_key)
            catch_up = CatchUp(self._segments, self._writer.next_sequence, self._tree, self._index, decode)
            catch_up.run(note, covered, horizon)
            replace_durably(directory / KEY_FILE, f"{signer.verifier_key}\n".encode())
            self._integrator = Integrator(
                self._tree,
                signer,
                directory / CHECKPOINT_FILE,
                note=note,
                signed=covered,
                interval_s=checkpoint_interval_s,
            )
        except BaseException as error:
            self._opened.close()
            if isinstance(error, OSError):
                raise Unavailable(f"{directory}: the audit log cannot be opened: {error}") from error
            raise
        self.attestations = Attestations(directory)
        self._indexer = Indexer(self._index, self._writer.next_sequence)
        behind = (self._integrator.backlog, self._indexer.backlog)
        self._committer = Committer(self._writer, Seen(self._index, self._indexer.backlog), behind)

    def _read_checkpoint(self) -> tuple[str, int]:
        path = self.directory / CHECKPOINT_FILE
        if not path.exists():
            return "", 0
        note = path.read_text()
        return note, verify(note, self._signer.verifier_key).size

    def submit(self, records: Sequence[Record], done: Done) -> None:
        """Append records, all or none; never blocks.

        A record whose id stands already with the same bytes gets its first sequence.

        Args:
            records: At least one.
            done: Called once, from any thread, with their sequences when they are on disk, or with why they were
                refused: AlreadyExists (an id stands with another body), InvalidArgument (too large), ResourceExhausted
                (the disk is full), Unavailable.
        """
        self._committer.submit(records, done)

    def append(self, records: Sequence[Record]) -> list[int]:
        """Append records and wait until they are on disk; see `submit`.

        Raises:
            MoltbotError: They were refused.
        """
        answered = threading.Event()
        answers: list[Answer] = []

        def done(answer: Answer) -> None:
            answers.append(answer)
            answered.set()

        self.submit(records, done)
        answered.wait()
        if isinstance(answers[0], MoltbotError):
            raise answers[0]
        return answers[0]

    @property
    def problem(self) -> str:
        """What is wrong with it now; empty when all is well."""
        return self._committer.problem or self._integrator.problem or self._indexer.problem

    @property
    def size(self) -> int:
        """Records in the log."""
        return self._writer.next_sequence

    @property
    def oldest(self) -> int:
        """The first record that has not expired."""
        return segments(self._segments)[0][0]

    @property
    def verifier_key(self) -> str:
        """The key to check checkpoints with."""
        return self._signer.verifier_key

    def checkpoint(self) -> tuple[str, Checkpoint]:
        """The newest checkpoint, as it was signed and as it reads."""
        note = self._integrator.note
        return note, parse(note)

    def get(self, event_id: bytes) -> Logged:
        """One event.

        Raises:
            NotFound: The log does not have it.
        """
        self._settle()
        place = self._index.places([event_id]).get(event_id)
        if place is None:
            raise NotFound(f"no event has the id {event_id.hex()}")
        return self._at(place)

    def at(self, sequence: int) -> Logged:
        """The record with a sequence.

        Raises:
            NotFound: The log does not have it.
        """
        self._settle()
        place = self._index.place_at(sequence)
        if place is None:
            raise NotFound(f"there is no record {sequence}; the log has {self.size}, the oldest may have expired")
        return self._at(place)

    def following(self, sequence: int, limit: int, most_bytes: int) -> list[Logged]:
        """The records from a sequence on: as many as `limit`, or as have `most_bytes`, but one at least.

        Raises:
            NotFound: The log does not have it, or not any more.
            Unavailable: The index does not have it yet.
        """
        if sequence >= self._indexer.backlog.reached:
            raise Unavailable("the audit index is behind; try again", retry_after_s=1.0)
        found: list[Logged] = []
        for place in self._index.following(sequence, limit):
            if most_bytes <= 0 or place.sequence != sequence + len(found):
                break
            found.append(self._at(place))
            most_bytes -= len(found[-1].payload)
        if not found:
            raise NotFound(f"record {sequence} has expired")
        return found

    def trace(self, trace_id: bytes, tenant: str = "") -> list[Logged]:
        """The events of a trace, of one tenant or (empty) of all, in order of time.

        Raises:
            OutOfRange: They are more than 10,000.
        """
        self._settle()
        return self._all(self._index.trace(trace_id, tenant))

    def sequences_of_trace(self, trace_id: bytes, tenant: str = "") -> Sequence[int]:
        """The sequences of all events of a trace, of one tenant or (empty) of all, in order."""
        self._settle()
        return self._index.sequences_of_trace(trace_id, tenant)

    def query(self, wanted: Filter, before: int, limit: int) -> list[Logged]:
        """Matching events with a sequence below `before`, newest first.

        Raises:
            DeadlineExceeded: Too much would have to be read.
        """
        self._settle()
        return self._all(self._index.query(wanted, before, limit))

    def _settle(self) -> None:
        """Wait for the index, so that whatever was acknowledged is found."""
        if not self._indexer.backlog.wait(self._writer.next_sequence, _INDEX_WAIT_S):
            raise Unavailable("the audit index is behind; try again", retry_after_s=1.0)

    def _all(self, places: Iterable[Place]) -> list[Logged]:
        return [self._at(place) for place in places]

    def _at(self, place: Place) -> Logged:
        path = self._segments / segment_name(place.segment)
        return Logged(place.sequence, read_at(path, place.sequence, place.offset))

    def records(self, start: int) -> Iterator[bytes]:
        """The payloads from a sequence on, which is there, a segment in memory at a time.

        Raises:
            DataLoss: One is damaged or missing.
        """
        found = segments(self._segments)
        begin = max(place for place, (first, _) in enumerate(found) if first <= start)
        for first, path in found[begin:]:
            for item in read(path, first):
                if isinstance(item, Damage):
                    raise DataLoss(f"the audit log is damaged: {item}; `moltbot audit verify` tells more")
                if item.number >= start:
                    yield item.payload

    def node(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree of 2**level leaves at `index` of that level."""
        with self._integrator.tree_lock:
            return self._tree.node(level, index)

    def inclusion_proof(self, event: bytes | int) -> Proof:
        """Prove that an event, named by its id or its sequence, is in the newest checkpoint's tree.

        Raises:
            NotFound: No such event.
            FailedPrecondition: The checkpoint does not cover it yet.
        """
        logged = self.at(event) if isinstance(event, int) else self.get(event)
        note, head = self.checkpoint()
        if logged.sequence >= head.size:
            raise FailedPrecondition("not yet under a checkpoint; try again in a second")
        with self._integrator.tree_lock:
            hashes = merkle.inclusion_proof(logged.sequence, head.size, self._tree.node)
        return Proof(logged.sequence, head.size, tuple(hashes), note, logged.payload)

    def consistency_proof(self, first: int, second: int = 0) -> tuple[int, list[bytes]]:
        """Prove that the log of `second` records (0: the newest checkpoint's) extends that of `first`.

        Returns:
            `second` and the proof.

        Raises:
            FailedPrecondition: No checkpoint covers `second` yet, or `first` is larger.
        """
        _, head = self.checkpoint()
        second = second or head.size
        if not 0 <= first <= second <= head.size:
            raise FailedPrecondition(f"asked for {first} to {second}: the sizes must grow and be at most {head.size}")
        with self._integrator.tree_lock:
            return second, merkle.consistency_proof(first, second, self._tree.node)

    def verify(self) -> VerifyReport:
        """Read everything again and check it, against this log's own key."""
        return verify_directory(self.directory, self.verifier_key)

    def expire(self, before_ns: int, held: Sequence[tuple[str, bytes]] = ()) -> int:
        """Remove sealed segments last written before a time (nanoseconds since 1970); proofs stay.

        Args:
            before_ns: The time.
            held: Tenants and trace ids (either may be empty) whose records must stay, and all behind them.

        Returns:
            How many records went.
        """
        horizon, removed = expire(self.directory, self._signer, self._until(held), before_ns)
        if removed:
            self._index.clear_below(horizon)
        return removed

    def expiring(self, before_ns: int, held: Sequence[tuple[str, bytes]] = ()) -> int:
        """How many records `expire` would remove now."""
        return expiring(self.directory, self._until(held), before_ns)[0] - self.oldest

    def _until(self, held: Sequence[tuple[str, bytes]]) -> int:
        """Behind the last record that may go."""
        _, head = self.checkpoint()
        self._indexer.backlog.wait(head.size, _INDEX_WAIT_S)
        known = min(head.size, self._indexer.backlog.reached)  # what is held beyond cannot be seen yet
        kept = [self._index.oldest_of(tenant, trace_id) for tenant, trace_id in held]
        return min([known, *(sequence for sequence in kept if sequence is not None)])

    def close(self) -> None:
        """Write what waits, sign, and close."""
        self._committer.close()
        self._integrator.close()
        self._indexer.close()
        self._opened.close()


def _lock(directory: Path, opened: contextlib.ExitStack) -> None:
    file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    opened.callback(os.close, file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        opened.close()
        raise Unavailable(f"{directory}: another process has this audit log open") from None

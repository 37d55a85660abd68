"""What producers numbered and the log does not have: proven by counters, and explained where a gap record says why.

A producer counts its events from 1 in each epoch (a start of its process), so a counter that is missing between others
is a record that was lost or kept out. What a producer had to drop it declares by a record; what nobody declared is a
finding. The log cannot tell what a producer counted last and never handed over; it learns that from the producer's next
start.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from moltbot_audit.segment import Damage, read, segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NO_END = 1 << 63
"""Of a declared gap whose end nobody knows."""


class Declared(NamedTuple):
    """A producer's word that it dropped events."""

    epoch: int
    first: int
    """No lower counter is among them."""
    last: int
    """And no higher one; `NO_END` if that is not known."""
    dropped: int
    """How many; `NO_END` if that is not known."""


class Numbered(NamedTuple):
    """What a record says of its producer."""

    producer_id: bytes
    epoch: int
    counter: int
    service: str
    instance: str
    declared: Declared | None = None


@dataclass(frozen=True, slots=True)
class EpochGaps:
    """One epoch of one producer."""

    producer_id: str
    service: str
    instance: str
    epoch: int
    first: int
    """The lowest counter in the log; those before it have expired, or are missing."""
    last: int
    """The highest."""
    missing: tuple[tuple[int, int], ...]
    """Ranges, both ends included."""
    declared: int
    """Of those missing, how many a gap record explains."""
    twice: int
    """Counters that stand more than once: two processes went by one producer's name."""
    open_from: int = 0
    """From this counter on an unknown number was lost, by the producer's own word; 0 if it gave none."""

    @property
    def lost(self) -> int:
        """How many are missing."""
        return sum(last - first + 1 for first, last in self.missing)

    @property
    def undeclared(self) -> int:
        """How many are missing without a word."""
        return self.lost - self.declared


@dataclass(frozen=True, slots=True)
class GapReport:
    """What was found."""

    epochs: tuple[EpochGaps, ...]
    """By producer, in the order in which they came into the log."""
    records: int
    """Read; those of the command line and of the log itself have no producer and no number."""
    problems: tuple[str, ...]
    """Damaged places in the log, each with its place."""

    @property
    def lost(self) -> int:
        """How many records are missing."""
        return sum(epoch.lost for epoch in self.epochs)

    @property
    def undeclared(self) -> int:
        """Of these, how many without a word."""
        return sum(epoch.undeclared for epoch in self.epochs)

    @property
    def ok(self) -> bool:
        """Whether nothing is missing but what was declared, and nothing stands twice."""
        return not (self.problems or self.undeclared or any(epoch.twice for epoch in self.epochs))


@dataclass(slots=True)
class _Epoch:
    service: str
    instance: str
    starts: list[int] = field(default_factory=list[int])
    ends: list[int] = field(default_factory=list[int])
    """The counters that are there, as ranges in order: few, since producers count in order."""
    twice: int = 0

    def add(self, counter: int) -> None:
        if self.ends and counter == self.ends[-1] + 1:
            self.ends[-1] = counter
            return
        place = bisect_right(self.starts, counter)
        if place and counter <= self.ends[place - 1]:
            self.twice += 1
            return
        joins_before = place > 0 and self.ends[place - 1] == counter - 1
        joins_after = place < len(self.starts) and self.starts[place] == counter + 1
        if joins_before and joins_after:
            self.ends[place - 1] = self.ends.pop(place)
            del self.starts[place]
        elif joins_before:
            self.ends[place - 1] = counter
        elif joins_after:
            self.starts[place] = counter
        else:
            self.starts.insert(place, counter)
            self.ends.insert(place, counter)

    def missing(self, *, from_start: bool) -> list[tuple[int, int]]:
        begins = [0, *self.ends] if from_start else self.ends
        following = self.starts if from_start else self.starts[1:]
        return [(end + 1, start - 1) for end, start in zip(begins, following, strict=False) if start > end + 1]


def find_gaps(directory: Path, numbered: Callable[[bytes], Numbered | None]) -> GapReport:
    """Read a log, which may be written to meanwhile, and compare what was counted with what is there.

    Args:
        directory: The log's (`…/audit/log`).
        numbered: Reads a record's producer; None if it has none.

    Raises:
        OSError: It cannot be read.
    """
    epochs: dict[bytes, dict[int, _Epoch]] = {}
    declared: dict[bytes, list[Declared]] = {}
    problems: list[str] = []
    records = 0
    found = segments(directory / "segments")
    for payload in _payloads(found, problems):
        records += 1
        one = numbered(payload)
        if one is None:
            continue
        of_producer = epochs.setdefault(one.producer_id, {})
        epoch = of_producer.get(one.epoch)
        if epoch is None:
            epoch = of_producer[one.epoch] = _Epoch(one.service, one.instance)
        epoch.add(one.counter)
        if one.declared is not None:
            declared.setdefault(one.producer_id, []).append(one.declared)
    expired = bool(found) and found[0][0] > 0
    report = [
        _compared(producer_id, number, epoch, declared.get(producer_id, []), from_start=not (expired and first == 0))
        for producer_id, of_producer in epochs.items()
        for first, (number, epoch) in enumerate(of_producer.items())
    ]
    return GapReport(tuple(report), records, tuple(problems))


def _payloads(found: list[tuple[int, Path]], problems: list[str]) -> Iterator[bytes]:
    for number, (first, path) in enumerate(found):
        torn: Damage | None = None
        for item in read(path, first):
            if isinstance(item, Damage):
                torn = item
                if number < len(found) - 1:
                    problems.append(str(item))
                continue
            if torn is not None and number == len(found) - 1:  # something follows: no torn end
                problems.append(str(torn))
                torn = None
            yield item.payload


def _compared(
    producer_id: bytes, number: int, epoch: _Epoch, declared: list[Declared], *, from_start: bool
) -> EpochGaps:
    missing = epoch.missing(from_start=from_start)
    said = sorted(one for one in declared if one.epoch == number)
    return EpochGaps(
        producer_id.hex(),
        epoch.service,
        epoch.instance,
        number,
        epoch.starts[0],
        epoch.ends[-1],
        tuple(missing),
        sum(min(_within(missing, first, last), dropped) for first, last, dropped in _joined(said)),
        epoch.twice,
        min((one.first for one in said if one.last == NO_END), default=0),
    )


def _joined(declared: list[Declared]) -> list[tuple[int, int, int]]:
    """Declarations as ranges that do not overlap: which of two explains a missing counter nobody can say."""
    joined: list[tuple[int, int, int]] = []
    for _, first, last, dropped in declared:
        if joined and first <= joined[-1][1]:
            before = joined.pop()
            joined.append((before[0], max(before[1], last), before[2] + dropped))
        else:
            joined.append((first, last, dropped))
    return joined


def _within(missing: list[tuple[int, int]], first: int, last: int) -> int:
    return sum(max(0, min(end, last) - max(start, first) + 1) for start, end in missing)

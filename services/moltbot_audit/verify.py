"""Reads a whole log and checks it, without the service: every record, tile and checkpoint, in constant memory."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from moltbot_audit import merkle
from moltbot_audit.checkpoint import verify as verify_checkpoint
from moltbot_audit.expiry import read_horizon
from moltbot_audit.merkle import leaf_hash, node_hash
from moltbot_audit.segment import Damage, read, segments
from moltbot_audit.segment_digests import digest_problem
from moltbot_audit.tiles import TILE_HASHES, read_tile, tile_path
from moltbot_mesh.errors import DataLoss, MoltbotError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from moltbot_audit.checkpoint import Checkpoint

CHECKPOINT_FILE = "checkpoint"
KEY_FILE = "log.key.pub"
_MOST_PROBLEMS = 1000
_STEP = 20_000


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found, or has found so far."""

    records: int
    """Read."""
    covered: int
    """Under the signed checkpoint; those behind it have no proof yet, only checksums."""
    problems: tuple[str, ...] = ()
    """Each with its place; at most 1,000."""
    done: bool = False

    @property
    def ok(self) -> bool:
        """Whether all was read and nothing is wrong."""
        return self.done and not self.problems


def verify_directory(directory: Path, verifier_key: str = "", since: str = "") -> VerifyReport:
    """Check a log. One that is being written to may be checked.

    Args:
        directory: The log's (`…/audit/log`).
        verifier_key: The C2SP verifier key that checkpoints must be signed with; if empty the one beside the log, which
            proves less: whoever could change the log could change that too.
        since: A checkpoint that was kept elsewhere, which the log must extend: without one, a log that was rolled back
            to an earlier state of its own, or written anew with its key, looks intact. Empty if there is none.
    """
    *_, report = verify_steps(directory, verifier_key, since)
    return report


def verify_steps(directory: Path, verifier_key: str = "", since: str = "") -> Iterator[VerifyReport]:
    """Check a log as `verify_directory` does, with a report every 20,000 records; the last is `done`."""
    checker = _Checker(directory)
    try:
        key = verifier_key or (directory / KEY_FILE).read_text()
        head = verify_checkpoint((directory / CHECKPOINT_FILE).read_text(), key)
        horizon = read_horizon(directory, key)
        kept = verify_checkpoint(since, key) if since else None
    except OSError as error:
        checker.report(f"{error.filename}: cannot be read: {error.strerror}")
    except MoltbotError as error:
        checker.report(f"{directory / CHECKPOINT_FILE}: {error.message}")
    else:
        checker.covered, checker.root, checker.kept = head.size, head.root, kept
        if kept is not None and kept.size > head.size:
            checker.report(
                f"the checkpoint that was kept covers {kept.size} records, the log's {head.size}: it was rolled back"
            )
        for records in checker.run(horizon):
            yield VerifyReport(records, head.size, tuple(checker.problems))
    yield VerifyReport(checker.records, checker.covered, tuple(checker.problems), done=True)


class _Checker:
    """Builds the tree of the records again and compares it with the tiles and the signed root.

    Args:
        directory: The log's.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.covered = 0
        self.root = merkle.EMPTY_ROOT
        self.kept: Checkpoint | None = None
        """A checkpoint that the log must extend."""
        self.records = 0
        self.problems: list[str] = []
        self._next = 0
        self._tiles: list[list[bytes]] = [[]]
        self._counts = [0]
        self._absent: set[int] = set()
        """Records of the current tile that could not be read: reported already."""

    def report(self, problem: str) -> None:
        """Note a problem."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)

    def run(self, horizon: int) -> Iterator[int]:
        """Check everything; yields how many records were read."""
        found = segments(self._directory / "segments")
        if found and found[0][0] > horizon:
            self.report(f"records {horizon} to {found[0][0] - 1} are missing: gone before their time")
        for number, (first, path) in enumerate(found):
            if first < self._next:
                self.report(f"{path.name}: begins at record {first}, which stands in the segment before it")
                continue
            if first > self._next and number > 0:
                self.report(f"records {self._next} to {first - 1} are missing before {path.name}")
            self._fill(first)
            if problem := digest_problem(path):
                self.report(problem)
            yield from self._segment(path, first, newest=number == len(found) - 1)
        if self._next < self.covered:
            self.report(f"the log ends at record {self._next}, but the signed checkpoint covers {self.covered}")
            self._fill(self.covered)

    def _segment(self, path: Path, first: int, *, newest: bool) -> Iterator[int]:
        torn: Damage | None = None
        for item in read(path, first):
            if isinstance(item, Damage):
                torn = item
                if not newest or item.sequence < self.covered:
                    self.report(str(item))
                continue
            if torn is not None and newest and torn.sequence >= self.covered:
                # Something stands behind it, so it is no torn end; unless the log was written while it was read.
                if any(isinstance(again, Damage) and again.offset == torn.offset for again in read(path, first)):
                    self.report(str(torn))
                torn = None
            if item.number < self._next:
                continue
            if item.number > self._next:
                self.report(f"{path.name}: records {self._next} to {item.number - 1} are missing")
                self._fill(item.number)
            self._leaf(leaf_hash(item.payload))
            self.records += 1
            if self.records % _STEP == 0:
                yield self.records

    def _fill(self, until: int) -> None:
        """Take the leaves of records that are not there from the tiles, so that the rest can be checked."""
        while self._next < until:
            number, offset = divmod(self._next, TILE_HASHES)
            width = min(TILE_HASHES, max(self.covered - number * TILE_HASHES, 1))
            try:
                hashes = read_tile(self._directory, 0, number, width)[offset:]
            except DataLoss as error:
                self.report(error.message)
                hashes = [b""] * (TILE_HASHES - offset)
            if not hashes:
                hashes = [b""] * (TILE_HASHES - offset)
            for found in hashes[: until - self._next]:
                self._absent.add(self._next)
                self._leaf(found)

    def _leaf(self, found: bytes) -> None:
        self._next += 1
        if self._next > self.covered:
            return
        self._push(0, found)
        if self.kept is not None and self._next == self.kept.size and self._root() != self.kept.root:
            self.report(
                f"the first {self._next} records are not those of the checkpoint that was kept: history was forked"
            )
        if self._next == self.covered:
            self._end()

    def _push(self, level: int, found: bytes) -> None:
        if level == len(self._tiles):
            self._tiles.append([])
            self._counts.append(0)
        tile = self._tiles[level]
        tile.append(found)
        if len(tile) == TILE_HASHES:
            self._compare(level)
            self._tiles[level] = []
            self._counts[level] += 1
            self._push(level + 1, _fold(tile))

    def _compare(self, level: int) -> None:
        tile, number = self._tiles[level], self._counts[level]
        name = tile_path(level, number, len(tile))
        try:
            stored = read_tile(self._directory, level, number, len(tile))
        except DataLoss as error:
            self.report(error.message)
            return
        finally:
            absent, self._absent = self._absent, set() if level == 0 else self._absent
        first = number * TILE_HASHES
        for offset, (made, kept) in enumerate(zip(tile, stored, strict=True)):
            if made != kept and not (level == 0 and first + offset in absent):
                what = f"record {first + offset}" if level == 0 else f"hash {offset}"
                self.report(f"{name}: {what} is not the one that was logged")

    def _end(self) -> None:
        for level, tile in enumerate(self._tiles):
            if tile:
                self._compare(level)
        if self._root() != self.root:
            self.report(f"the first {self.covered} records do not give the root that the checkpoint signs")

    def _root(self) -> bytes:
        """Of the leaves so far: the complete subtrees in the incomplete tiles, joined from the right."""
        root: bytes | None = None
        for tile in self._tiles:
            end = len(tile)
            while end:
                width = end & -end
                subtree = _fold(tile[end - width : end])
                root = subtree if root is None else node_hash(subtree, root)
                end -= width
        return root or merkle.EMPTY_ROOT


def _fold(hashes: list[bytes]) -> bytes:
    while len(hashes) > 1:
        pairs = zip(hashes[::2], hashes[1::2], strict=True)
        hashes = [sha256(b"\x01" + left + right).digest() for left, right in pairs]  # half of what a leaf costs
    return hashes[0]

"""Copies the log to another system behind it, batch by batch, and goes on where that system last took one.

The log itself is the queue: one batch is in memory, and what waits is on disk anyway. A batch may come twice; it has
the same sequences then.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from moltbot_mesh import durable
from moltbot_mesh.errors import FailedPrecondition, MoltbotError
from moltbot_mesh.reconnect import backoff_s

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from moltbot_audit.ledger import Ledger
    from moltbot_audit.records import Logged

log = structlog.get_logger("moltbot.audit")

_MOST_BYTES = 16 << 20
_OLDEST_EVERY_S = 60.0
_MOST_BACKOFF_S = 60.0


class Sink(Protocol):
    """A system that keeps a copy of the log."""

    @property
    def target(self) -> str:
        """Which one: what another one has taken does not count here."""
        ...

    async def write(self, batch: Sequence[Logged]) -> None:
        """Take records, in order; they are safe there when this returns. Idempotent by sequence.

        Raises:
            MoltbotError: It cannot; try again.
        """
        ...

    async def forget(self, before: int) -> None:
        """Remove the records below a sequence: they have expired. Idempotent.

        Raises:
            MoltbotError: It cannot; try again.
        """
        ...


@dataclass(slots=True)
class _Position:
    following: int
    """Behind the last record that was taken."""
    forgotten: int
    """All below it were removed."""


class Forwarder:
    """Keeps a sink up to date with what signed checkpoints cover.

    Args:
        ledger: The log.
        sink: Takes the copy.
        path: The file that remembers what it has taken.
        batch_records: Most records of a batch.
        interval_s: How long to wait for more records while a batch is not full, in seconds.
    """

    def __init__(self, ledger: Ledger, sink: Sink, path: Path, *, batch_records: int, interval_s: float) -> None:
        self._ledger = ledger
        self._sink = sink
        self._path = path
        self._batch_records = batch_records
        self._interval_s = interval_s
        self._at = _read(path, sink.target)
        self._look_at_oldest_s = 0.0
        self.problem = ""
        """Why it is behind now; empty when it is not, or only because there is much."""

    @property
    def lag_records(self) -> int:
        """Records in the log that the sink does not have yet."""
        return max(0, self._ledger.size - self._at.following)

    async def run(self) -> None:
        """Copy until it is cancelled."""
        failures = 0
        while True:
            try:
                pause_s = await self._step()
            except (MoltbotError, OSError, sqlite3.Error) as error:
                if not self.problem:
                    log.warning("audit records not copied; trying again", sink=self._sink.target, error=str(error))
                self.problem = str(error)
                pause_s = backoff_s(failures, base_s=1.0, at_most_s=_MOST_BACKOFF_S)
                failures += 1
            else:
                if self.problem:
                    log.info("audit records are copied again", sink=self._sink.target, lag_records=self.lag_records)
                self.problem, failures = "", 0
            await asyncio.sleep(pause_s)

    async def _step(self) -> float:
        """Copy one batch; how long to wait before the next one, in seconds."""
        started_s = time.monotonic()
        if started_s >= self._look_at_oldest_s:
            await self._forget(await asyncio.to_thread(lambda: self._ledger.oldest))
            self._look_at_oldest_s = started_s + _OLDEST_EVERY_S
        if self._at.following > self._ledger.size:
            raise FailedPrecondition(
                f"{self._sink.target} has {self._at.following} records, the log {self._ledger.size}: was it restored?"
                f" Empty the copy, and remove {self._path}"
            )
        _, head = self._ledger.checkpoint()
        most = min(self._batch_records, head.size - self._at.following)
        if most <= 0:
            return self._interval_s
        batch = await asyncio.to_thread(self._ledger.following, self._at.following, most, _MOST_BYTES)
        await self._sink.write(batch)
        await self._remember(_Position(batch[-1].sequence + 1, self._at.forgotten))
        # Half of the time belongs to others, also while there is much to catch up with.
        return time.monotonic() - started_s if len(batch) == self._batch_records else self._interval_s

    async def _forget(self, oldest: int) -> None:
        if oldest > self._at.following:
            log.warning(
                "audit records expired before they were copied",
                sink=self._sink.target, first=self._at.following, records=oldest - self._at.following,
            )  # fmt: skip
            await self._remember(_Position(oldest, self._at.forgotten))
        if oldest > self._at.forgotten:
            await self._sink.forget(oldest)
            await self._remember(_Position(self._at.following, oldest))

    async def _remember(self, at: _Position) -> None:
        told = {"target": self._sink.target, "following": at.following, "forgotten": at.forgotten}
        await asyncio.to_thread(durable.replace_durably, self._path, json.dumps(told).encode())
        self._at = at


def _read(path: Path, target: str) -> _Position:
    """What a sink has taken; nothing, if the file is of another one or cannot be read."""
    try:
        told = json.loads(path.read_bytes())
        if told["target"] == target:
            return _Position(int(told["following"]), int(told["forgotten"]))
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError):
        log.warning("what a sink has taken cannot be read; all is copied again", file=path.name)
    return _Position(0, 0)

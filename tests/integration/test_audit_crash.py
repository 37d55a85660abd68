"""Real processes, killed with SIGKILL at random points, on disks that fail: what was acknowledged is there, once.

`MOLTBOT_AUDIT_KILLS` sets how many kills (10 by default); run as a command, this file prints what it found:
`python tests/integration/test_audit_crash.py 1000`, `make test-audit-crash`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot.audit.v1 import audit_pb2, audit_pb2_grpc

from moltbot_audit.checkpoint import Signer
from moltbot_audit.event import decode
from moltbot_audit.ledger import Ledger
from moltbot_audit.segment import read, segments
from moltbot_audit.servicer import AuditServicer
from moltbot_mesh.audit.frames import Frame
from moltbot_mesh.audit.producer import AuditProducer
from moltbot_mesh.errors import ResourceExhausted, Unavailable
from moltbot_mesh.inprocess import InProcessChannel
from moltbot_mesh.interceptors import HandlerTable
from moltbot_mesh.uuid7 import uuid7
from moltbot_testkit.faulty_disk import FaultRates, FaultyDisk

if TYPE_CHECKING:
    from moltbot_audit.disk import Disk

KILLS = int(os.environ.get("MOLTBOT_AUDIT_KILLS", "10"))
SEGMENT_BYTES = 1 << 17
ACKNOWLEDGED = struct.Struct("<16sQ")
FAULT = ACKNOWLEDGED.pack(b"\xff" * 16, 0)
"""Told when records were refused because the disk is full or fails."""
THREADS = 4


def event(**fields) -> audit_pb2.AuditEvent:
    return audit_pb2.AuditEvent(
        event_id=uuid7(),
        time_unix_ns=time.time_ns(),
        type=audit_pb2.EVENT_TYPE_TOOL_CALL,
        outcome=audit_pb2.OUTCOME_SUCCESS,
        subject="key-1",
        action="call",
        object="x" * random.randrange(300),
        **fields,
    )


def open_ledger(directory: Path, disk: Disk | None = None) -> Ledger:
    signer = Signer.load(directory / "log.key", "test/log")
    return Ledger(directory / "log", signer, decode, SEGMENT_BYTES, checkpoint_interval_s=0.05, disk=disk)


# The processes that are killed. Each writes what was acknowledged to its standard output.


def tell_open(told: int, seconds: float) -> None:
    os.write(told, ACKNOWLEDGED.pack(bytes(16), int(seconds * 1e6)))


def write_log(told: int, directory: Path, disk: Disk | None = None) -> None:
    started_s = time.perf_counter()
    while True:
        try:
            ledger = open_ledger(directory, disk)
            break
        except (ResourceExhausted, Unavailable):
            assert disk is not None
    tell_open(told, time.perf_counter() - started_s)

    def work() -> None:
        batch: list = []
        while True:
            records = [decode(event().SerializeToString()) for _ in range(random.randrange(1, 40))]
            again = random.sample(batch, len(batch) // 4)  # replays: not to be written twice
            while True:
                try:
                    sequences = ledger.append(records + again)
                    break
                except (ResourceExhausted, Unavailable):
                    assert disk is not None
                    os.write(told, FAULT)
            pairs = zip(records + again, sequences, strict=True)
            os.write(told, b"".join(ACKNOWLEDGED.pack(record.event_id, sequence) for record, sequence in pairs))
            batch = records

    for _ in range(THREADS):
        threading.Thread(target=work).start()


@contextlib.asynccontextmanager
async def producing(directory: Path, drain_s: float):
    async def unrecorded(*_: str) -> None:
        """Nothing is read here."""

    ledger = await asyncio.to_thread(open_ledger, directory)
    table = HandlerTable()
    audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditServicer(ledger, unrecorded), table)
    stub = audit_pb2_grpc.AuditServiceStub(InProcessChannel(table.handlers))
    producer = AuditProducer(stub, directory / "spill", "tool", "tool-1", drain_s=drain_s)
    async with producer.running():
        yield producer
    ledger.close()


async def produce(told: int, directory: Path) -> None:
    async def work(producer: AuditProducer) -> None:
        while True:
            for _ in range(random.randrange(20)):
                producer.emit(event())
            durable = event()
            await producer.emit_durable(durable)
            os.write(told, ACKNOWLEDGED.pack(durable.event_id, 0))

    started_s = time.perf_counter()
    async with producing(directory, 1.0) as producer:
        tell_open(told, time.perf_counter() - started_s)
        await asyncio.gather(*(work(producer) for _ in range(THREADS)))


# The process that kills.


def run_and_kill(mode: str, directory: Path, wanted: int) -> tuple[list[tuple[bytes, int]], float | None]:
    """Start a process, kill it while it writes; what was acknowledged, and how long it took to open in seconds.

    It is killed some milliseconds after it has told `wanted` things, however long these take. Where the disk may lose
    power that can happen while the log opens: then nothing was, and it is None.
    """
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, __file__, mode, str(directory)], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
    )
    assert process.stdout is not None
    data = bytearray()
    try:
        ready = process.stdout.read(ACKNOWLEDGED.size)
        if mode == "faulty" and not ready and process.wait(10) == -signal.SIGKILL:
            return [], None
        assert len(ready) == ACKNOWLEDGED.size, f"the writer ended by itself: {process.wait(10)}"
        opened_s = ACKNOWLEDGED.unpack(ready)[1] / 1e6
        killer = threading.Timer(random.uniform(0.0, 0.01), process.send_signal, (signal.SIGKILL,))
        if not wanted:
            killer.start()
        while chunk := process.stdout.read1():
            data += chunk
            if killer.ident is None and len(data) >= wanted * ACKNOWLEDGED.size:
                killer.start()
        if killer.ident is not None:  # else the disk lost power before
            killer.join()
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
    whole = len(data) // ACKNOWLEDGED.size * ACKNOWLEDGED.size
    return list(ACKNOWLEDGED.iter_unpack(bytes(data[:whole]))), opened_s


def draw_wanted(kill: int, most: int) -> int:
    """After how much to kill: every other process at once, the first one not."""
    return 0 if kill % 2 else random.randrange(1, most)


def stored(directory: Path) -> list[audit_pb2.AuditEvent]:
    found = [item for first, path in segments(directory / "log" / "segments") for item in read(path, first)]
    assert all(isinstance(item, Frame) for item in found)
    assert [item.number for item in found] == list(range(len(found)))
    return [audit_pb2.AuditEvent.FromString(item.payload) for item in found]


def crash_log(directory: Path, kills: int, mode: str = "log") -> str:
    acknowledged: dict[bytes, int] = {}
    opened: list[float] = []
    refused = went_on = unopened = killed = 0

    def shown() -> bool:
        return bool(acknowledged) and (mode == "log" or kills < 5 or went_on > 0)

    while killed < kills or (not shown() and killed < 20 * kills):
        told, opened_s = run_and_kill(mode, directory, draw_wanted(killed, 600))
        killed += 1
        if opened_s is None:
            unopened += 1
        else:
            opened.append(opened_s)
        faults = [place for place, (event_id, _) in enumerate(told) if event_id == FAULT[:16]]
        refused += len(faults)
        went_on += bool(faults) and faults[-1] < len(told) - 1
        for event_id, sequence in told:
            if event_id == FAULT[:16]:
                continue
            assert acknowledged.setdefault(event_id, sequence) == sequence, "an event was told two sequences"
    ledger = open_ledger(directory)
    ledger.close()
    report = ledger.verify()
    assert report.ok, report.problems
    ids = [one.event_id for one in stored(directory)]
    assert len(set(ids)) == len(ids), "a duplicate"
    lost = [event_id for event_id, at in acknowledged.items() if at >= len(ids) or ids[at] != event_id]
    assert not lost, f"{len(lost)} acknowledged records lost"
    assert acknowledged
    assert shown(), "no writer went on after a fault of the disk"
    found = (
        f"{killed} kills, {len(acknowledged)} acknowledged, {len(ids)} stored, 0 lost, 0 duplicates, "
        f"log open again in {statistics.median(opened):.3f} s (median), {max(opened):.3f} s (at most)"
    )
    if mode == "log":
        return found
    return f"{found}, records refused {refused} times by a full or failing disk, {unopened} times dead in recovery"


def crash_producer(directory: Path, kills: int) -> str:
    durable: set[bytes] = set()
    for kill in range(kills):
        told, _ = run_and_kill("producer", directory, draw_wanted(kill, 80))
        durable |= {event_id for event_id, _ in told}

    async def drain() -> None:
        async with producing(directory, 20.0):
            pass

    asyncio.run(drain())
    events = stored(directory)
    ids = [one.event_id for one in events]
    assert len(set(ids)) == len(ids), "a duplicate"
    assert durable
    assert durable <= set(ids), f"{len(durable - set(ids))} durable events lost"
    places: dict[int, list[int]] = {}
    for one in events:
        places.setdefault(one.producer.epoch, []).append(one.producer.counter)
    for epoch, counters in places.items():
        assert counters == list(range(1, len(counters) + 1)), f"a gap or another order in epoch {epoch}"
    found = f"{kills} kills, {len(durable)} durable, {len(ids)} stored"
    return f"{found}, 0 lost, 0 duplicates, no gap in {len(places)} epochs"


def test_a_killed_writer_loses_no_acknowledged_record_and_writes_none_twice(tmp_path):
    print(crash_log(tmp_path, KILLS))


def test_a_log_on_a_disk_that_fails_and_loses_power_loses_no_acknowledged_record(tmp_path):
    print(crash_log(tmp_path, KILLS, "faulty"))


def test_a_killed_producer_loses_no_durable_event_and_leaves_no_gap(tmp_path):
    print(crash_producer(tmp_path, max(1, KILLS // 2)))


def main() -> None:
    mode, *rest = sys.argv[1:]
    told = os.dup(1)
    if rest:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is logged must not stand among what is told
    if mode == "log":
        write_log(told, Path(rest[0]))
    elif mode == "faulty":
        write_log(told, Path(rest[0]), FaultyDisk(random.Random(os.urandom(8)), FaultRates()))
    elif mode == "producer":
        asyncio.run(produce(told, Path(rest[0])))
    else:
        kills = int(mode)
        for name, crash in (
            ("killed", crash_log),
            ("killed on a faulty disk", lambda at, count: crash_log(at, count, "faulty")),
            ("producer killed", crash_producer),
        ):
            with tempfile.TemporaryDirectory() as directory:
                print(f"{name}: {crash(Path(directory), kills)}", flush=True)


if __name__ == "__main__":
    main()

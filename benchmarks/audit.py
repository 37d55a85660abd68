"""The audit log beside a raw fdatasync and SQLite, in the same run: the disk varies more than anything here.

`python benchmarks/audit.py [--seconds 3] [--directory .]`; `--memory 10000000` writes that many records instead, and
tells every million how much memory the process has. CPU is the whole process's until tree and index are
where the records are.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import queue
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
from audit_client import event
from moltbot.audit.v1 import audit_pb2_grpc

from moltbot_audit import check_bundle, merkle
from moltbot_audit.checkpoint import Signer, verify
from moltbot_audit.event import decode
from moltbot_audit.export import bundle
from moltbot_audit.ledger import Ledger
from moltbot_audit.servicer import AuditServicer
from moltbot_audit.tiles import Tree
from moltbot_audit.verify import verify_directory
from moltbot_mesh.audit.producer import AuditProducer
from moltbot_mesh.inprocess import InProcessChannel
from moltbot_mesh.interceptors import HandlerTable
from moltbot_mesh.uuid7 import uuid7


def row(name: str, count: float, seconds: float, latencies_s: list[float], cpu_s: float | None = None) -> None:
    latencies_s.sort()
    cpu = "" if cpu_s is None else f"  {cpu_s / count * 1e6:7.2f} us CPU"
    marks = "".join(
        f"  {p} {latencies_s[min(len(latencies_s) - 1, int(len(latencies_s) * q))] * 1e3:8.3f} ms"
        for p, q in (("p50", 0.5), ("p99", 0.99))
        if latencies_s
    )
    print(f"{name:<52}{count / seconds:>12,.0f} records/s{cpu}{marks}", flush=True)


def raw_fdatasync(directory: Path, seconds: float, size: int, records: int) -> None:
    file = os.open(directory / "raw", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(file, 0, 256 << 20)
    os.fsync(file)
    latencies, offset, data = [], 0, os.urandom(size * records)
    started = time.perf_counter()
    while time.perf_counter() - started < seconds and offset + len(data) < 256 << 20:
        before = time.perf_counter()
        os.pwrite(file, data, offset)
        os.fdatasync(file)
        offset += len(data)
        latencies.append(time.perf_counter() - before)
    name = f"raw pwrite + fdatasync, {records} at a time"
    row(name, len(latencies) * records, time.perf_counter() - started, latencies)
    os.close(file)


def sqlite_wal(directory: Path, seconds: float, records: int) -> None:
    db = sqlite3.connect(directory / f"baseline-{records}.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE log (id BLOB PRIMARY KEY, body BLOB) WITHOUT ROWID")
    body, latencies = event().SerializeToString(), []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        rows = [(uuid7(), body) for _ in range(records)]
        before = time.perf_counter()
        db.execute("BEGIN")
        db.executemany("INSERT INTO log VALUES (?,?)", rows)
        db.execute("COMMIT")
        latencies.append(time.perf_counter() - before)
    row(f"SQLite WAL, synchronous=FULL, {records} at a time", len(latencies) * records, sum(latencies), latencies)
    db.close()


def in_process(ledger: Ledger, clients: int, batch: int, prepared: list) -> None:
    """Clients that each have one batch under way, records made beforehand."""
    answers: queue.SimpleQueue = queue.SimpleQueue()
    latencies: list[float] = []
    batches = [prepared[start : start + batch] for start in range(0, len(prepared) - batch + 1, batch)]
    gc.collect()
    gc.freeze()  # the prepared records are the benchmark's, not the log's
    started, cpu_s = time.perf_counter(), time.process_time()
    sent = 0

    def submit() -> None:
        nonlocal sent
        before = time.perf_counter()
        ledger.submit(batches[sent], lambda answer: answers.put((before, answer)))
        sent += 1

    for _ in range(min(clients, len(batches))):
        submit()
    for _ in batches:
        before, answer = answers.get()
        assert isinstance(answer, list), answer
        latencies.append(time.perf_counter() - before)
        if sent < len(batches):
            submit()
    name = f"ledger in process, {clients} clients x {batch}"
    seconds = time.perf_counter() - started
    settle(ledger)
    row(name, len(batches) * batch, seconds, latencies, time.process_time() - cpu_s)
    gc.unfreeze()


def settle(ledger: Ledger) -> None:
    """Wait until tree and index are where the records are: their work belongs to who caused it."""
    for behind in (ledger._integrator, ledger._indexer):
        while not behind.backlog.wait(ledger.size, 60):
            pass


def memory(ledger: Ledger, count: int) -> None:
    """What the process holds while a log grows."""
    batch, waiting = 1000, queue.SimpleQueue[object]()
    every = min(1_000_000, max(batch, count // 10))
    started, cpu_s = time.perf_counter(), time.process_time()
    for sent in range(0, count, batch):
        if sent % every == 0:
            told = f"{sent:>12,} records {resident_mib():8.1f} MiB resident"
            print(f"{told} {time.perf_counter() - started:8.0f} s {time.process_time() - cpu_s:8.0f} s CPU", flush=True)
        if sent >= 8 * batch:
            assert isinstance(answer := waiting.get(), list), answer
        ledger.submit([decode(event().SerializeToString()) for _ in range(batch)], waiting.put)
    for _ in range(min(8, count // batch)):
        assert isinstance(answer := waiting.get(), list), answer
    ledger.close()
    print(f"{count:>12,} records {resident_mib():8.1f} MiB resident, closed", flush=True)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def bundles(ledger: Ledger, directory: Path, count: int) -> None:
    """A range exported, and checked by the program that is handed to others."""
    count = min(count, ledger.size)
    started, cpu_s = time.perf_counter(), time.process_time()
    with (directory / "bundle").open("wb") as stream:
        for piece in bundle(ledger, range(count), f"range 0-{count}"):
            stream.write(piece)
    row("bundle: export of a range", count, time.perf_counter() - started, [], time.process_time() - cpu_s)
    started, cpu_s = time.perf_counter(), time.process_time()
    with (directory / "bundle").open("rb") as stream:
        _, found = check_bundle.check(stream, check_bundle.Key.parse(ledger.verifier_key), (), "")
    assert found == count
    row("bundle: verification", count, time.perf_counter() - started, [], time.process_time() - cpu_s)


async def over_grpc(ledger: Ledger, directory: Path, count: int, *, streams: int, window: int, batch: int) -> None:
    """The service here, its clients in a process of their own, as in a mesh of separate services."""

    async def unrecorded(*_: str) -> None:
        """Nothing is read here."""

    server = grpc.aio.server()
    audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditServicer(ledger, unrecorded), server)
    server.add_insecure_port(f"unix:{directory}/socket")
    await server.start()
    gc.collect()
    gc.freeze()  # as a service does when it has started
    asked = json.dumps([f"{directory}/socket", count, streams, window, batch])
    cpu_s = time.process_time()
    program = str(Path(__file__).with_name("audit_client.py"))
    client = await asyncio.create_subprocess_exec(sys.executable, program, asked, stdout=subprocess.PIPE)
    told, _ = await client.communicate()
    assert client.returncode == 0
    seconds, client_cpu_s, latencies = json.loads(told)
    await asyncio.to_thread(settle, ledger)
    name = f"over gRPC, {streams} streams x {window} x {batch}"
    row(name, len(latencies) * batch, seconds, latencies, time.process_time() - cpu_s)
    print(f"{'':<52}{client_cpu_s / len(latencies) / batch * 1e6:>12.2f} us CPU a record in the clients")
    await server.stop(0)
    gc.unfreeze()


async def producer(ledger: Ledger, directory: Path, count: int) -> None:
    async def unrecorded(*_: str) -> None:
        """Nothing is read here."""

    table = HandlerTable()
    audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditServicer(ledger, unrecorded), table)
    stub = audit_pb2_grpc.AuditServiceStub(InProcessChannel(table.handlers))
    recorder = AuditProducer(stub, directory / "spill", "gateway", "g1", queue_events=count + 1, drain_s=60)
    events = [event() for _ in range(count)]
    for one in events:
        one.ClearField("producer")
    async with recorder.running():
        cpu = time.thread_time()
        for one in events:
            recorder.emit(one)
        emit_us = (time.thread_time() - cpu) / count * 1e6
        before, started = time.process_time(), time.perf_counter()
        while recorder.stats.acknowledged < count:
            await asyncio.sleep(0.005)
        cpu_us = (time.process_time() - before) / count * 1e6
        seconds = time.perf_counter() - started
    print(f"{'producer: emit() on the request path':<52}{emit_us:>12.2f} us CPU an event")
    print(f"{'producer + ledger behind it, until acknowledged':<52}{cpu_us:>12.2f} us CPU an event")
    row("producer to ledger, in process", count, seconds, [])
    latencies: list[float] = []
    async with AuditProducer(stub, directory / "spill", "gateway", "g1").running() as recorder:
        for together in (1, 2):
            requests = [[event() for _ in range(together)] for _ in range(5000)]
            cpu = 0.0
            for request in requests:
                started = time.thread_time()
                recorder.emit_now(request)
                cpu += time.thread_time() - started
                await asyncio.sleep(0)
            name = f"producer: emit_now() of a request's {together} on its path"
            print(f"{name:<52}{cpu / len(requests) * 1e6:>12.2f} us CPU a request")
        for _ in range(300):
            before = time.perf_counter()
            await recorder.emit_durable(event())
            latencies.append(time.perf_counter() - before)
    row("producer: emit_durable, one after the other", len(latencies), sum(latencies), latencies)


def proofs(ledger: Ledger, directory: Path, count: int) -> None:
    tree = Tree(directory / "tree")
    started = time.thread_time()
    leaf = os.urandom(32)
    for _ in range(count):
        tree.append(leaf)
    print(f"{'tree: append':<52}{(time.thread_time() - started) / count * 1e6:>12.2f} us CPU a leaf")
    tree.publish()
    root, rounds = tree.root(), range(0, count, count // 1000)
    for index in rounds:
        merkle.inclusion_proof(index, count, tree.node)  # reads the tiles
    started = time.thread_time()
    found = [(index, merkle.inclusion_proof(index, count, tree.node)) for index in list(rounds)[-400:]]
    built = (time.thread_time() - started) / len(found)
    started = time.thread_time()
    assert all(merkle.verify_inclusion(leaf, index, count, proof, root) for index, proof in found)
    checked = (time.thread_time() - started) / len(found)
    print(f"{f'inclusion proof at {count:,} leaves, tiles in memory':<52}{built * 1e6:>12.2f} us CPU to build")
    print(f"{'':<52}{checked * 1e6:>12.2f} us CPU to verify")
    verify(ledger.checkpoint()[0], ledger.verifier_key)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each baseline")
    parser.add_argument("--records", type=int, default=150_000, help="of each run in process")
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="on the disk to measure")
    parser.add_argument("--memory", type=int, default=0, help="records to write, to see that memory stays flat")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as name:
        directory = Path(name)
        signer = Signer.load(directory / "key", "bench/log")
        if given.memory:
            memory(Ledger(directory / "log", signer, decode), given.memory)
            return
        size = len(event().SerializeToString())
        print(f"records of {size} bytes, {os.cpu_count()} cores, {threading.active_count()} thread at start\n")
        for records in (1, 64, 1024):
            raw_fdatasync(directory, given.seconds, size, records)
        for records in (1, 64, 1024):
            sqlite_wal(directory, given.seconds / 2, records)
        ledger = Ledger(directory / "log", signer, decode)
        most = given.records
        for clients, batch, count in (
            (1, 1, 2000), (64, 1, 50_000), (256, 1, 100_000),
            (4, 96, most), (8, 64, most), (16, 64, most), (8, 512, most),
        ):  # fmt: skip
            in_process(ledger, clients, batch, [decode(event().SerializeToString()) for _ in range(count)])
        for streams, window, batch in ((4, 1, 64), (1, 2, 192), (2, 2, 128), (4, 8, 32), (2, 4, 256)):
            count = given.records // 2
            asyncio.run(over_grpc(ledger, directory, count, streams=streams, window=window, batch=batch))
        asyncio.run(producer(ledger, directory, 50_000))
        started = time.perf_counter()
        ledger.close()
        print(f"{'close: index, tiles, checkpoint':<52}{time.perf_counter() - started:>12.2f} s")
        started, cpu_s = time.perf_counter(), time.process_time()
        report = verify_directory(directory / "log")
        assert report.ok, report.problems
        cpu_s = time.process_time() - cpu_s
        row("full verification", report.records, time.perf_counter() - started, [], cpu_s)
        started = time.perf_counter()
        ledger = Ledger(directory / "log", signer, decode)
        print(f"{'open again':<52}{time.perf_counter() - started:>12.2f} s")
        bundles(ledger, directory, given.records)
        proofs(ledger, directory, 1_000_000)
        ledger.close()


if __name__ == "__main__":
    main()

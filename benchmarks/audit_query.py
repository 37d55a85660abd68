"""The log asked: the index and SQL over a log of many records, and what the files for it cost.

    .venv/bin/python benchmarks/audit_query.py --records 1000000

Times are of this process alone: wall time of each question (the best of three), CPU time a record of what is written.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / part) for part in ("services", "libs", "libs/protos")]

from moltbot.audit.v1 import audit_pb2 as pb

from moltbot_audit.adapters.clickhouse import encode
from moltbot_audit.adapters.parquet import write_missing
from moltbot_audit.adapters.sql import Analysis
from moltbot_audit.checkpoint import Signer
from moltbot_audit.event import decode
from moltbot_audit.ledger import Ledger
from moltbot_audit.records import Filter
from moltbot_mesh.uuid7 import uuid7

END = 1 << 62
SECOND_NS = 10**9


def events(count):
    """A tenant among 20, a key among 400, a model among 6; one request in 200 is refused."""
    draw = random.Random(1)
    for n in range(count):
        refused = draw.random() < 0.005
        yield pb.AuditEvent(
            event_id=uuid7(), time_unix_ns=1_700_000_000 * SECOND_NS + n * SECOND_NS // 50, type=1 + n % 3,
            outcome=2 if refused else 1, tenant=f"tenant-{draw.randrange(20)}", subject=f"key-{draw.randrange(400)}",
            action="POST /v1/chat/completions", object=f"model-{n % 6}", model=f"model-{n % 6}", ingress=2,
            request_id=f"req-{draw.getrandbits(64):x}", trace_id=draw.randbytes(16), span_id=draw.randbytes(8),
            service="gateway", instance="gateway-1", prompt_tokens=400, completion_tokens=200, duration_us=900_000,
            input_commitment=draw.randbytes(32), output_commitment=draw.randbytes(32), peer="10.0.0.7",
            http_status=429 if refused else 200, reason="QUOTA_EXCEEDED" if refused else "",
        ).SerializeToString()  # fmt: skip


def best(ask):
    times = []
    for _ in range(3):
        started = time.perf_counter()
        found = ask()
        times.append(time.perf_counter() - started)
    return min(times) * 1000, found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_000_000)
    count = parser.parse_args().records
    with tempfile.TemporaryDirectory() as home:
        directory = Path(home) / "log"
        ledger = Ledger(directory, Signer.load(Path(home) / "key", "bench/log"), decode, sync=False)
        started = time.process_time()
        rare = pb.AuditEvent(
            event_id=uuid7(), time_unix_ns=1, type=1, outcome=1, tenant="rare", subject="x", action="x"
        )
        ledger.append([decode(rare.SerializeToString())])
        made = events(count)
        while records := [decode(payload) for payload in itertools.islice(made, 8192)]:
            ledger.append(records)
        while ledger.checkpoint()[1].size < ledger.size or ledger._indexer.backlog.reached < ledger.size:
            time.sleep(0.1)
        size = (directory / "index.sqlite").stat().st_size
        took = (time.process_time() - started) / count * 1e6
        print(f"{ledger.size:,} records; made and logged in {took:.1f} µs CPU, index {size / count:.0f} bytes a record")
        middle = 1_700_000_000 * SECOND_NS + count // 2 * SECOND_NS // 50
        for said, wanted in (
            ("one key of 400, newest 100", Filter(subject="key-7")),
            ("a key, a model and a type", Filter(subject="key-7", model="model-3", type=1)),
            ("what was refused with 4xx", Filter(http_status_class=4, reason="QUOTA_EXCEEDED")),
            ("a minute in the middle", Filter(start_ns=middle, end_ns=middle + 60 * SECOND_NS)),
            ("a tenant with one record", Filter(tenant="rare")),
            ("a tenant with none", Filter(tenant="nobody")),
            ("two values never together", Filter(tenant="tenant-1", subject="key-7", model="model-3", type=2)),
        ):
            took, found = best(lambda wanted=wanted: ledger._index.query(wanted, END, 100))
            print(f"index  {took:9.2f} ms  {len(found):4}  {said}")
        started, wall = time.process_time(), time.perf_counter()
        written = write_missing(directory, ledger.size)
        took, wall = time.process_time() - started, time.perf_counter() - wall
        parquet = list((directory / "parquet").iterdir())
        rows = int(max((directory / "segments").iterdir()).stem)
        print(f"parquet {took / rows * 1e6:.1f} µs CPU a record, {rows / wall:,.0f} records/s, {written} files, "
              f"{sum(path.stat().st_size for path in parquet) / rows:.0f} bytes a record")  # fmt: skip
        started = time.perf_counter()
        with Analysis(directory) as analysis:
            print(f"sql    {(time.perf_counter() - started) * 1000:9.0f} ms  to open, with the newest segment read")
            for said, statement in (
                ("all counted", "SELECT count(*) FROM events"),
                ("requests per day, tenant and model", "FROM requests_per_day"),
                ("the ten keys with most tokens",
                 "SELECT subject, sum(completion_tokens) FROM events GROUP BY 1 ORDER BY 2 DESC LIMIT 10"),
                ("one request", "FROM events WHERE request_id = 'req-0'"),
            ):  # fmt: skip
                took, _ = best(lambda statement=statement: list(analysis.run(statement).rows))
                print(f"sql    {took:9.0f} ms  {said}")
        batch = ledger.following(0, 5000, 1 << 30)
        started = time.process_time()
        encode(batch)
        print(f"clickhouse {(time.process_time() - started) / len(batch) * 1e6:.1f} µs CPU a record to encode")
        ledger.close()


if __name__ == "__main__":
    main()

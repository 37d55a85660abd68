"""What the index finds, by blocks and by its own indexes, is what a look at every row finds."""

from __future__ import annotations

import random
import sqlite3
import stat
import threading

import pytest

from moltbot_audit import blocks
from moltbot_audit.index import Index, _search
from moltbot_audit.records import Filter, Place, Record, row

END = 1 << 62
ROWS = 3 * blocks.ROWS + 100


def rows(count, first=0, seed=1):
    """Rows whose values mostly come in runs, as tenants and models do, and whose clocks run a little apart."""
    draw = random.Random(seed)
    for n in range(first, first + count):
        run = n // 3000
        yield (
            Place(n, 0, n),
            Record(
                n.to_bytes(16, "big"), b"", 10_000 + n * 10 + draw.randrange(500),
                (n // 5).to_bytes(16, "big"), f"r{n // 3}",
                draw.choice(("a", f"run-{run}")), f"key-{draw.randrange(9)}",
                draw.choice(("", "m", f"m-{run}")), draw.randrange(1, 9), draw.randrange(1, 5), draw.randrange(5),
                draw.choice(("", "calculator", f"o{n}")), draw.choice(("POST /v1/chat", "GET /v1/models")),
                draw.choice(("", "QUOTA_EXCEEDED")), draw.choice(("gateway", "tool")), draw.choice((0, 200, 404, 503)),
            ),
        )  # fmt: skip


@pytest.fixture(scope="module")
def everything():
    return list(rows(ROWS))


def add(index, batch):
    index.add([row(place, record) for place, record in batch])


@pytest.fixture(scope="module")
def index(tmp_path_factory, everything):
    found = Index(tmp_path_factory.mktemp("index") / "index.sqlite")
    for start in range(0, ROWS, 1000):
        add(found, everything[start : start + 1000])
    yield found
    found.close()


def matches(wanted, record):
    named = (*blocks.FIELDS, "request_id", "trace_id")
    return (
        all(getattr(record, name) == getattr(wanted, name) for name in named if getattr(wanted, name))
        and (not wanted.http_status_class or record.http_status // 100 == wanted.http_status_class)
        and (not wanted.start_ns or record.time_ns >= wanted.start_ns)
        and (not wanted.end_ns or record.time_ns < wanted.end_ns)
    )


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(tenant="run-1"),
        Filter(tenant="nobody"),
        Filter(subject="key-3", model="m-2"),
        Filter(type=3, outcome=2, ingress=1),
        Filter(object="calculator", service="tool"),
        Filter(object="o5000"),
        Filter(action="GET /v1/models", reason="QUOTA_EXCEEDED"),
        Filter(http_status_class=5, tenant="run-4"),
        Filter(start_ns=60_000, end_ns=60_400),
        Filter(start_ns=100_000),
        Filter(end_ns=10_100),
        Filter(request_id="r1234", service="gateway"),
        Filter(trace_id=(77).to_bytes(16, "big")),
        Filter(trace_id=(77).to_bytes(16, "big"), outcome=1),
    ],
)
@pytest.mark.parametrize("before", [END, blocks.ROWS + 7])
def test_a_query_finds_what_a_look_at_every_row_finds(index, everything, wanted, before):
    expected = [place for place, record in reversed(everything) if place.sequence < before and matches(wanted, record)]
    assert index.query(wanted, before, ROWS) == expected
    assert index.query(wanted, before, 3) == expected[:3]


def test_no_query_sorts_more_than_what_one_request_or_trace_has(index):
    for wanted in (Filter(), Filter(tenant="a", model="m", start_ns=5), Filter(http_status_class=4)):
        statement, values = _search(wanted, END)
        plan = [row[-1] for row in index._db.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        assert not any("TEMP B-TREE" in step for step in plan), plan
        assert "SEARCH events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in plan, plan
    for wanted, name in ((Filter(request_id="r"), "by_request"), (Filter(trace_id=b"t" * 16, type=1), "by_trace")):
        statement, values = _search(wanted, END)
        plan = [row[-1] for row in index._db.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        assert not any("TEMP B-TREE" in step for step in plan), plan
        assert any(step.startswith(f"SEARCH events USING INDEX {name} (<expr>=? AND ") for step in plan), plan


def test_a_trace_is_found_in_every_part_of_the_log(tmp_path):
    index = Index(tmp_path / "index.sqlite")
    one = Record(b"", b"", 5, b"t" * 16, "r", "t", type=1, outcome=1)
    places = [Place(n * blocks.PART_ROWS // 2, 0, n) for n in range(9)]
    for place in places:
        index.add([row(place, one._replace(event_id=place.offset.to_bytes(16, "big")))])
    wanted = [
        Filter(trace_id=b"t" * 16),
        Filter(request_id="r"),
        Filter(trace_id=b"t" * 16, request_id="r", tenant="t"),
    ]
    assert [index.query(one, END, 99) for one in wanted] == [places[::-1]] * 3
    assert index.query(wanted[0], places[5].sequence, 2) == [places[4], places[3]]
    assert index.trace(b"t" * 16, "t") == places
    assert index.oldest_of("", b"t" * 16) == 0
    index.clear_below(places[3].sequence)
    assert list(index.sequences_of_trace(b"t" * 16)) == [place.sequence for place in places[3:]]
    assert index.oldest_of("", b"t" * 16) == places[3].sequence
    assert [part for (part,) in index._db.execute("SELECT part FROM parts")] == [1, 2, 3, 4]
    index.close()


def test_a_batch_of_new_traces_changes_few_pages_however_long_the_log_is(tmp_path):
    index = Index(tmp_path / "index.sqlite")
    draw = random.Random(1)

    def add_batch(first):
        plain = Record(b"", b"", 1, tenant="t", type=1, outcome=1)
        index.add(
            [
                row(Place(n, 0, 0), plain._replace(event_id=n.to_bytes(16, "big"), trace_id=draw.randbytes(16)))
                for n in range(first, first + 1000)
            ]
        )

    for part in range(20):
        for batch in range(8):
            add_batch(part * blocks.PART_ROWS + 1000 * batch)
    index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    add_batch(19 * blocks.PART_ROWS + 8000)
    _, changed, _ = index._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert 0 < changed < 250  # with one tree for all traces more than 700, and ever more
    index.close()


def test_a_rare_value_is_found_without_a_look_at_other_blocks(tmp_path):
    index = Index(tmp_path / "index.sqlite")
    plain = Record(b"", b"", 1, subject="many", model="m", type=1, outcome=1)
    for start in range(0, 40 * blocks.ROWS, blocks.ROWS):
        index.add(
            [
                row(
                    Place(n, 0, 0),
                    plain._replace(event_id=n.to_bytes(16, "big"), subject="one" * (n == 99_999) or "many"),
                )
                for n in range(start, start + blocks.ROWS)
            ]
        )
    steps = [0]

    def count():
        steps[0] += 1
        return 0

    index._db.set_progress_handler(count, 1)
    statement, values = _search(Filter(subject="one"), END)
    assert [row[0] for row in index._db.execute(statement, values)] == [99_999]
    assert steps[0] < 12 * blocks.ROWS  # a look at all rows takes 40 blocks' worth several times over
    index.close()


def test_a_block_of_values_that_hardly_repeat_still_answers_for_each(tmp_path):
    index = Index(tmp_path / "index.sqlite")
    one = Record(b"", b"", 1, tenant="t", type=1, outcome=1)
    rows = [row(Place(n, 0, 0), one._replace(event_id=n.to_bytes(16, "big"), subject=f"s{n}")) for n in range(2000)]
    index.add(rows)
    assert [place.sequence for place in index.query(Filter(subject="s1234"), END, 9)] == [1234]
    (noted,) = index._db.execute("SELECT count(*) FROM held").fetchone()
    assert noted == 4
    index.close()


def test_the_oldest_record_of_a_tenant_and_of_a_trace_are_found(index, everything):
    first = next(place for place, record in everything if record.tenant == "run-3")
    assert index.oldest_of("run-3", b"") == first.sequence
    assert index.oldest_of("", (77).to_bytes(16, "big")) == 385
    assert index.oldest_of("nobody", b"") is None


def test_what_was_taken_back_is_noted_again(tmp_path, everything, monkeypatch):
    index = Index(tmp_path / "index.sqlite")
    batch = everything[: blocks.ROWS + 10]
    noting = blocks.Blocks._add

    def failing(self, block, records):
        noting(self, block, records)
        if block:
            raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(blocks.Blocks, "_add", failing)
        with pytest.raises(sqlite3.Error):
            add(index, batch)
    assert index.query(Filter(), END, 99) == []
    add(index, batch)
    expected = [place for place, record in reversed(batch) if record.service == "gateway"]
    assert index.query(Filter(service="gateway"), END, ROWS) == expected
    index.close()


@pytest.mark.parametrize("rolled_back", [True, False])
def test_what_a_failed_commit_took_back_is_noted_again(tmp_path, everything, rolled_back):
    index = Index(tmp_path / "index.sqlite")
    real = index._db

    class Full:
        def execute(self, statement, *values):
            if statement == "COMMIT":
                if rolled_back:  # as SQLite does on its own when the disk is full
                    real.execute("ROLLBACK")
                raise sqlite3.OperationalError("database or disk is full")
            return real.execute(statement, *values)

        @property
        def in_transaction(self):
            return real.in_transaction

    index._db = Full()
    with pytest.raises(sqlite3.OperationalError, match="full"):
        add(index, everything[:500])
    index._db = real
    assert index.next_sequence() == 0
    add(index, everything[:500])
    expected = [place for place, record in reversed(everything[:500]) if record.tenant == "a"]
    assert index.query(Filter(tenant="a"), END, ROWS) == expected
    assert index.trace((3).to_bytes(16, "big")) != []
    index.close()


def test_the_oldest_record_of_a_tenant_is_found_where_a_block_may_hold_any(tmp_path):
    index = Index(tmp_path / "index.sqlite")
    one = Record(b"", b"", 1, type=1, outcome=1)
    index.add([row(Place(n, 0, 0), one._replace(event_id=n.to_bytes(16, "big"), tenant=f"t{n}")) for n in range(2000)])
    later = Place(2 * blocks.ROWS, 0, 0)
    index.add([row(later, one._replace(event_id=b"later", tenant="t700"))])
    assert index.oldest_of("t700", b"") == 700
    index.close()


def test_expired_rows_and_their_blocks_go_and_the_others_are_found(tmp_path, everything):
    index = Index(tmp_path / "index.sqlite")
    for start in range(0, ROWS, 1000):
        add(index, everything[start : start + 1000])
    index.clear_below(2 * blocks.ROWS + 1)
    assert index.query(Filter(tenant="run-0"), END, 9) == []
    assert index.oldest_of("a", b"") > 2 * blocks.ROWS
    (oldest,) = index._db.execute("SELECT min(block) FROM held").fetchone()
    assert oldest == 2
    index.close()


def test_rows_that_the_log_does_not_have_are_forgotten_and_come_again(tmp_path, everything):
    index = Index(tmp_path / "index.sqlite")
    add(index, everything[:3000])
    index.clear_from(1000)
    assert index.next_sequence() == 1000
    add(index, everything[1000:2000])
    assert len(index.query(Filter(), END, ROWS)) == 2000
    index.close()


def test_an_index_of_another_schema_is_built_again_from_the_segments(open_ledger, directory, record):
    ledger = open_ledger()
    ledger.append([record(object="calculator") for _ in range(700)])
    ledger.close()
    for schema, version in (
        ("CREATE TABLE events (sequence INTEGER PRIMARY KEY, tenant TEXT); INSERT INTO events VALUES (9, 'x');", 0),
        ("", 999),
    ):
        (directory / "index.sqlite").unlink()
        old = sqlite3.connect(directory / "index.sqlite")
        old.executescript(f"{schema} PRAGMA user_version = {version}")
        old.close()
        again = open_ledger()
        assert len(again.query(Filter(object="calculator"), END, 1000)) == 700
        assert stat.S_IMODE((directory / "index.sqlite").stat().st_mode) == 0o600
        again.close()


def test_queries_go_on_while_rows_are_added(tmp_path, everything):
    index = Index(tmp_path / "index.sqlite")
    done = threading.Event()
    problems = []

    def ask():
        while not done.is_set():
            found = [place.sequence for place in index.query(Filter(service="tool"), END, 50)]
            if found != sorted(found, reverse=True):
                problems.append(found)

    asking = threading.Thread(target=ask)
    asking.start()
    for start in range(0, 8000, 500):
        add(index, everything[start : start + 500])
    done.set()
    asking.join()
    index.close()
    assert not problems

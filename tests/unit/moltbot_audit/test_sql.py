"""SQL reads the whole log, and nothing but the log."""

from __future__ import annotations

import shutil
import time

import pytest
from moltbot.audit.v1 import audit_pb2 as pb

from moltbot_audit.adapters.sql import Analysis, check
from moltbot_mesh.errors import DataLoss, DeadlineExceeded, InvalidArgument, NotFound, ResourceExhausted

SEGMENT = 1 << 16
DAY_NS = 86_400 * 10**9


@pytest.fixture
def ledger(open_ledger, record):
    """A log of two sealed segments, and a third with records that no Parquet file has."""
    ledger = open_ledger(segment_bytes=SEGMENT)
    number = 0
    while len(list((ledger.directory / "segments").glob("*.seg"))) < 3:
        ledger.append([record(tenant="sealed", object=f"o{number + n}") for n in range(100)])
        number += 100
    ledger.append([record(tenant="newest")])
    while ledger.checkpoint()[1].size < ledger.size:
        time.sleep(0.005)
    return ledger


def ask(ledger, statement, **limits):
    check(statement)
    with Analysis(ledger.directory, **limits) as analysis:
        answer = analysis.run(statement)
        return answer.columns, list(answer.rows)


def test_sealed_and_newest_records_are_one_table_in_which_each_stands_once(ledger):
    columns, rows = ask(
        ledger, "SELECT count(*) AS n, count(DISTINCT sequence) AS d, max(sequence) AS last FROM events"
    )
    assert columns == ("n", "d", "last")
    assert rows == [(ledger.size, ledger.size, ledger.size - 1)]
    assert len(list((ledger.directory / "parquet").glob("*.parquet"))) == 2
    _, rows = ask(ledger, "SELECT tenant, count(*) FROM events GROUP BY ALL ORDER BY ALL")
    assert rows == [("newest", 1), ("sealed", ledger.size - 1)]


def test_a_log_without_a_sealed_segment_is_asked_too(open_ledger, record):
    ledger = open_ledger()
    assert ask(ledger, "SELECT count(*) FROM events")[1] == [(0,)]
    ledger.append([record()])
    assert ask(ledger, "SELECT tenant FROM events")[1] == [("acme",)]


def test_a_log_is_asked_while_nobody_serves_it_and_up_to_its_torn_end(ledger):
    size = ledger.size
    ledger.close()
    newest = max((ledger.directory / "segments").iterdir())
    content = newest.read_bytes()
    written = len(content.rstrip(b"\0"))
    newest.write_bytes(content[: written - 20] + bytes(len(content) - written + 20))
    assert ask(ledger, "SELECT count(*) FROM events")[1] == [(size - 1,)]


def test_a_sealed_segment_that_is_damaged_is_told(ledger):
    path = min((ledger.directory / "segments").iterdir())
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataLoss, match=path.name):
        ask(ledger, "SELECT 1")


def test_requests_are_counted_by_day_tenant_and_model(open_ledger, record):
    ledger = open_ledger()
    start = 1_700_000_000_000_000_000 // DAY_NS * DAY_NS
    ledger.append([
        record(model="m", time_unix_ns=start, duration_us=1000, prompt_tokens=3, completion_tokens=4),
        record(model="m", time_unix_ns=start + DAY_NS - 1, duration_us=3000, outcome=pb.OUTCOME_REFUSED),
        record(model="m", time_unix_ns=start + DAY_NS, outcome=pb.OUTCOME_FAILED),
        record(model="m", time_unix_ns=start, type=pb.EVENT_TYPE_MODEL_CALL),
        record(model="m", time_unix_ns=start, tenant="b", outcome=pb.OUTCOME_CANCELLED),
    ])  # fmt: skip
    columns, rows = ask(ledger, "FROM requests_per_day")
    told = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [(str(one["day"]), one["tenant"], one["requests"]) for one in told] == [
        ("2023-11-14", "acme", 2), ("2023-11-14", "b", 1), ("2023-11-15", "acme", 1),
    ]  # fmt: skip
    first = told[0]
    assert (first["succeeded"], first["refused"], first["failed"], first["cancelled"]) == (1, 1, 0, 0)
    assert (first["prompt_tokens"], first["completion_tokens"], first["median_ms"]) == (3, 4, 2.0)
    assert ask(ledger, "SELECT count(*) FROM requests")[1] == [(4,)]


@pytest.mark.parametrize(
    "statement",
    [
        "", "-- nothing", "SELECT 1; SELECT 2", "COPY events TO 'x'", "COPY (SELECT 1) TO 'x'", "INSTALL httpfs",
        "LOAD httpfs", "ATTACH 'x'", "SET memory_limit = '9GB'", "RESET memory_limit", "PRAGMA version",
        "CALL pragma_version()", "CREATE TABLE t AS SELECT 1", "CREATE OR REPLACE VIEW events AS SELECT 1",
        "DROP VIEW events", "DELETE FROM newest", "INSERT INTO newest DEFAULT VALUES", "EXPORT DATABASE 'x'",
        "EXPLAIN ANALYZE COPY events TO 'x'", "PREPARE p AS SELECT 1", "CHECKPOINT", "BEGIN", "USE main",
        "SELECT '" + "x" * 17_000 + "'",
    ],
)  # fmt: skip
def test_what_is_not_one_select_is_refused_before_anything_is_opened(statement):
    with pytest.raises(InvalidArgument):
        check(statement)


@pytest.mark.parametrize(
    "statement",
    ["SELECT 1", "WITH a AS (SELECT 1) FROM a", "FROM events", "DESCRIBE events", "SUMMARIZE events", "SHOW TABLES"],
)
def test_every_form_of_reading_is_taken(ledger, statement):
    ask(ledger, statement)


def test_a_statement_reaches_no_file_no_network_no_setting_and_nothing_of_this_program(ledger, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("canary\ncanary\n")
    ask(ledger, "SELECT 1")
    parquet = next((ledger.directory / "parquet").glob("*.parquet"))
    before = parquet.read_bytes()
    hostile = [
        f"SELECT * FROM '{secret}'",
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM read_text('{secret}')",
        f"SELECT * FROM read_blob('{secret}')",
        f"SELECT * FROM sniff_csv('{secret}')",
        f"SELECT * FROM glob('{tmp_path}/*')",
        f"SELECT * FROM read_parquet('{parquet.parent}/*.parquet')",
        "SELECT * FROM 'https://127.0.0.1/x.parquet'",
        "SELECT * FROM read_text('/proc/self/environ')",
        "SELECT getenv('HOME')",
        "SELECT * FROM enable_logging(storage = 'file')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM statement",
        "SELECT * FROM hostile",
        "SELECT * FROM query('COPY events TO ''x''')",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('COPY events TO ''x'''))",
    ]
    with Analysis(ledger.directory) as analysis:
        for statement in hostile:
            check(statement)
            with pytest.raises(InvalidArgument) as refused:
                list(analysis.run(statement).rows)
            assert "canary" not in str(refused.value)
        with pytest.raises(Exception, match="locked"):
            analysis._db.execute("SET enable_external_access = true")
        assert list(analysis.run("SELECT 1").rows) == [(1,)]
    assert parquet.read_bytes() == before
    assert not list(ledger.directory.glob("x"))


def test_a_statement_that_takes_too_long_ends(ledger):
    started_s = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="longer than"):
        ask(ledger, "SELECT sum(a) FROM range(1000000000000) t(a)", timeout_s=0.3)
    assert time.monotonic() - started_s < 10


def test_a_statement_that_takes_too_much_memory_ends(ledger):
    with pytest.raises(ResourceExhausted, match="64 MiB"):
        ask(ledger, "SELECT list(a) FROM range(100000000) t(a)", memory_mib=64)


def test_the_newest_segment_alone_may_need_more_memory_than_there_is(ledger):
    with pytest.raises(ResourceExhausted, match="1 MiB"):
        ask(ledger, "SELECT 1", memory_mib=1)


def test_a_file_that_is_damaged_is_told_with_what_mends_it(ledger):
    ask(ledger, "SELECT 1")
    for path in (ledger.directory / "parquet").glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidArgument, match="--rebuild"):
        ask(ledger, "SELECT count(DISTINCT tenant) FROM events")


@pytest.mark.parametrize("name", ["it's", "with space", "ünï"])
def test_the_log_may_stand_under_any_name(ledger, tmp_path, name):
    shutil.copytree(ledger.directory, tmp_path / name)
    with Analysis(tmp_path / name) as analysis:
        assert list(analysis.run("SELECT count(*) FROM events").rows) == [(ledger.size,)]
    shutil.copytree(ledger.directory, tmp_path / "a[1]")
    with pytest.raises(InvalidArgument, match="pattern"):
        Analysis(tmp_path / "a[1]")


def test_no_log_is_told(tmp_path):
    with pytest.raises(NotFound, match="--data-dir"):
        Analysis(tmp_path)


@pytest.mark.parametrize("letter", ["x", "é", "字"])
def test_a_statement_is_bounded_in_bytes_for_it_stands_in_a_record(letter):
    room = 16_384 - len("SELECT ''")
    check(f"SELECT '{letter * (room // len(letter.encode()))}'")
    with pytest.raises(InvalidArgument, match="at most 16384"):
        check(f"SELECT '{letter * (room // len(letter.encode()) + 1)}'")


def test_a_statement_that_is_not_text_is_refused():
    with pytest.raises(InvalidArgument, match="not valid UTF-8"):
        check("SELECT '\udcff'")

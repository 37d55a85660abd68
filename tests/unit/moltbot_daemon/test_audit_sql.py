"""`audit sql` and `audit parquet`: what they print, and that who asks is recorded before anything is read."""

from __future__ import annotations

import csv
import io
import json
import time

import pytest
from moltbot.audit.v1 import audit_pb2 as pb

from moltbot_audit.checkpoint import Signer
from moltbot_audit.event import decode
from moltbot_audit.ledger import Ledger
from moltbot_daemon.cli import main
from moltbot_mesh.audit.administration import SPILL, waiting
from moltbot_mesh.uuid7 import uuid7

HOSTILE = 'a\x1b[2J"\n,b'


@pytest.fixture
def data(tmp_path):
    """A data directory with a log of three records, which nobody serves."""
    home = tmp_path / "data" / "audit"
    home.mkdir(parents=True)
    ledger = Ledger(home / "log", Signer.load(home / "log.key", "test/log"), decode, 1 << 16)
    events = [
        pb.AuditEvent(
            event_id=uuid7(), time_unix_ns=time.time_ns(), type=pb.EVENT_TYPE_REQUEST, outcome=pb.OUTCOME_SUCCESS,
            tenant=tenant, subject="key-1", action="POST /v1/chat/completions", attributes={"n": "1"},
        )
        for tenant in ("a", "b", HOSTILE)
    ]  # fmt: skip
    ledger.append([decode(event.SerializeToString()) for event in events])
    ledger.close()
    return tmp_path / "data"


@pytest.fixture
def run(tmp_path, data, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOLTBOT_DATA_DIR", str(data))

    def run(*arguments):
        code = main(["audit", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_the_result_is_a_table_in_which_nothing_moves_the_cursor(run):
    code, out, _ = run("sql", "SELECT tenant, sequence FROM events ORDER BY sequence")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["tenant", "sequence"]
    assert lines[2].split() == ["a", "0"]
    assert lines[4].split() == ['a\\x1b[2J"\\n,b', "2"]


def test_the_result_is_json_or_csv_that_others_read(run):
    statement = "SELECT tenant, sequence, attributes, leaf_hash, time, event_id, NULL AS nothing FROM events ORDER BY 2"
    _, out, _ = run("sql", statement, "--format", "json")
    found = json.loads(out)
    assert [one["tenant"] for one in found] == ["a", "b", HOSTILE]
    assert found[0]["attributes"] == {"n": "1"}
    assert found[0]["nothing"] is None
    assert len(bytes.fromhex(found[0]["leaf_hash"])) == 32
    assert run("sql", statement, "--json")[1] == out
    _, out, _ = run("sql", statement, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    assert [row["tenant"] for row in rows] == ["a", "b", HOSTILE]
    assert json.loads(rows[0]["attributes"]) == {"n": "1"}
    assert run("sql", "SELECT 1 WHERE false", "--json")[1] == "[]\n"


def test_an_object_never_loses_a_column_that_has_the_name_of_another(run):
    code, out, err = run("sql", "SELECT 1 AS a, 2 AS a", "--json")
    assert (code, out) == (64, "")
    assert "same name" in err


def test_a_long_table_is_cut_and_says_so(run):
    code, out, err = run("sql", "SELECT * FROM range(1500)")
    assert (code, len(out.splitlines())) == (0, 1002)
    assert "--format csv" in err
    assert len(run("sql", "SELECT * FROM range(1500)", "--format", "csv")[1].splitlines()) == 1501


def test_the_read_is_recorded_whole_before_it_happens(run, data):
    statement = "SELECT missing FROM events"
    code, out, err = run("sql", statement)
    assert (code, out) == (64, "")
    assert "missing" in err
    (path,) = waiting(data / SPILL)
    event = pb.AuditEvent.FromString(path.read_bytes())
    assert (event.type, event.action, event.object) == (pb.EVENT_TYPE_AUDIT_READ, "audit sql", "events")
    assert event.subject.startswith("os-user:")
    assert event.attributes["statement"] == statement


def test_who_cannot_be_recorded_reads_nothing(run, data):
    (data / SPILL.parent).write_text("in the way of the directory")
    code, out, _ = run("sql", "SELECT tenant FROM events")
    assert code == 1
    assert out == ""


def test_what_is_no_select_is_wrong_use(run, data):
    for statement in ("DROP VIEW events", "COPY events TO 'x'"):
        code, out, err = run("sql", statement)
        assert (code, out) == (64, "")
        assert "one SELECT" in err
    assert not (data / SPILL).exists()


def test_limits_that_are_none_are_wrong_use(run):
    for limit in (("--timeout", "0"), ("--timeout", "nan"), ("--memory-mib", "1")):
        assert run("sql", "SELECT 1", *limit)[0] == 64


def test_missing_files_are_written_and_all_of_them_on_demand(run):
    assert run("parquet")[:2] == (0, "0 files written\n")
    assert json.loads(run("parquet", "--rebuild", "--json")[1]) == {"written": 0}
    assert run("parquet", "--data-dir", "nowhere")[0] == 64


def test_duckdb_that_is_not_there_is_named(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    code, out, err = run("sql", "SELECT 1")
    assert (code, out) == (64, "")
    assert "moltbot[analysis]" in err

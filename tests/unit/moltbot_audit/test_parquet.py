"""Sealed segments stand as Parquet files, whole or not at all, and go with their segments."""

from __future__ import annotations

import asyncio
import os
import stat
import time
import uuid

import duckdb
import pytest
from moltbot.audit.v1 import audit_pb2 as pb

from moltbot_audit import merkle, parquet_files
from moltbot_audit.adapters import duck, parquet, parquet_child
from moltbot_audit.adapters.columns import VERSION, row
from moltbot_mesh.errors import DataLoss, Unavailable

SEGMENT = 1 << 16


def covered(ledger, size):
    deadline_s = time.monotonic() + 5
    while ledger.checkpoint()[1].size < size:
        assert time.monotonic() < deadline_s, "no checkpoint came"
        time.sleep(0.005)


@pytest.fixture
def ledger(open_ledger, record):
    """A log of three sealed segments and a fourth."""
    ledger = open_ledger(segment_bytes=SEGMENT)
    number = 0
    while len(list((ledger.directory / "segments").glob("*.seg"))) < 4:
        ledger.append([record(object=f"o{number + n}", attributes={"n": str(n)}) for n in range(100)])
        number += 100
    covered(ledger, number)
    return ledger


def files(ledger):
    return sorted((ledger.directory / "parquet").iterdir())


def found(ledger, what):
    return duckdb.sql(f"SELECT {what} FROM read_parquet('{ledger.directory}/parquet/*.parquet')").fetchall()


def full_event():
    """An event in which each field has a value that no other has."""
    return pb.AuditEvent(
        event_id=uuid.UUID(int=1).bytes,
        time_unix_ns=1_700_000_000_123_456_789,
        type=pb.EVENT_TYPE_TOOL_CALL,
        outcome=pb.OUTCOME_REFUSED,
        tenant="tenänt",
        subject="subject'\";--",
        action="action",
        object="nul \x00 and \U0001f600",
        reason="REASON",
        ingress=pb.INGRESS_CLASS_OUTBOUND,
        request_id="request",
        trace_id=bytes(range(16)),
        span_id=bytes(range(8)),
        parent_event_id=uuid.UUID(int=2).bytes,
        service="service",
        instance="instance",
        model="model",
        prompt_tokens=(1 << 32) - 1,
        completion_tokens=18,
        duration_us=(1 << 64) - 1,
        input_commitment=b"\xff\x00" * 16,
        output_commitment=b"\x00" * 32,
        reasoning_commitment=b"\x01" * 32,
        output_bytes=(1 << 64) - 3,
        reasoning_bytes=19,
        mark_id=(1 << 32) - 2,
        attributes={"k'\"": 'v"\n', "": "é"},
        peer="::1",
        http_status=429,
        producer=pb.Producer(producer_id=bytes(range(16, 32)), epoch=(1 << 64) - 2, counter=7),
    )


def test_every_field_of_an_event_comes_out_of_the_table_as_it_went_in():
    event = full_event()
    assert {field.name for field in pb.AuditEvent.DESCRIPTOR.fields} == {field.name for field, _ in event.ListFields()}
    payload = event.SerializeToString()
    made = row(5, merkle.leaf_hash(payload), payload)
    plain = row(6, b"", pb.AuditEvent(event_id=uuid.UUID(int=3).bytes, time_unix_ns=1, type=99).SerializeToString())
    with duck.connect(64, 1) as db:
        duck.make_table(db, "t")
        assert duck.insert(db, "t", [made, plain]) == 7
        rows = db.execute(f"SELECT {', '.join(made._fields)} FROM t ORDER BY sequence").fetchall()
        assert rows == [tuple(made), tuple(plain)]
        assert db.execute("SELECT time::VARCHAR FROM t WHERE sequence = 5").fetchone() == (
            "2023-11-14 22:13:20.123456",
        )
    assert made.type == "tool_call"
    assert (plain.type, plain.trace_id, plain.parent_event_id) == ("99", "", None)
    values = {value for value in made if not isinstance(value, dict)}
    assert {"000102030405060708090a0b0c0d0e0f", "refused", "outbound", uuid.UUID(int=2), 429, (1 << 64) - 2} <= values
    assert len(values) == len(made) - 1  # each field has its own column


def test_each_sealed_segment_has_a_file_and_the_newest_has_none(ledger):
    assert parquet.write_missing(ledger.directory, ledger.size) == 3
    assert parquet.write_missing(ledger.directory, ledger.size) == 0
    firsts = [path.stem for path in sorted((ledger.directory / "segments").iterdir())]
    assert [path.name for path in files(ledger)] == [f"{first}.v{VERSION}.parquet" for first in firsts[:3]]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(ledger)} == {0o600}
    assert stat.S_IMODE(files(ledger)[0].parent.stat().st_mode) == 0o700
    end = int(firsts[3])
    assert found(ledger, "sequence") == [(n,) for n in range(end)]
    for sequence, leaf, named in found(ledger, "sequence, leaf_hash, object")[::97]:
        payload = ledger.at(sequence).payload
        assert leaf == merkle.leaf_hash(payload)
        assert named == pb.AuditEvent.FromString(payload).object


def test_a_segment_that_no_checkpoint_covers_has_no_file_yet(ledger):
    firsts = [int(path.stem) for path in sorted((ledger.directory / "segments").iterdir())]
    assert parquet.write_missing(ledger.directory, firsts[2] - 1) == 1
    assert parquet.write_missing(ledger.directory, firsts[2]) == 1


def test_files_go_with_their_segments_and_are_not_made_again(ledger):
    parquet.write_missing(ledger.directory, ledger.size)
    gone = ledger.expire(time.time_ns() + 10**9)
    assert gone
    parquet_files.tidy(ledger.directory)
    assert len(files(ledger)) == len(list((ledger.directory / "segments").iterdir())) - 1
    assert found(ledger, "min(sequence)") == [(gone,)]
    assert parquet.write_missing(ledger.directory, ledger.size) == 0


def test_files_of_other_columns_and_what_a_crash_left_are_cleared_away(ledger):
    parquet.write_missing(ledger.directory, ledger.size)
    home = ledger.directory / "parquet"
    old, torn, spill = home / "00000000000000000000.v0.parquet", home / ".a.tmp", home / ".spill-x.tmp"
    old.touch()
    foreign = home / "mine.parquet"
    foreign.touch()
    torn.touch()
    spill.mkdir()
    parquet_files.tidy(ledger.directory, VERSION)
    assert not old.exists()
    assert torn.exists()  # somebody may be writing it
    for path in (torn, spill):
        os.utime(path, (1, 1))
    parquet_files.tidy(ledger.directory, VERSION)
    foreign.unlink()  # what somebody else put there stays
    assert len(files(ledger)) == 3


def test_files_are_written_again_after_all_were_removed(ledger):
    parquet.write_missing(ledger.directory, ledger.size)
    before = found(ledger, "*")
    parquet_files.remove_all(ledger.directory)
    assert parquet.write_missing(ledger.directory, ledger.size) == 3
    assert found(ledger, "*") == before


def test_a_damaged_segment_gets_no_file(ledger):
    path = sorted((ledger.directory / "segments").iterdir())[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataLoss, match=path.name):
        parquet.write_missing(ledger.directory, ledger.size)
    assert len(files(ledger)) == 1


def test_a_file_that_cannot_be_written_is_told_and_leaves_nothing(ledger, monkeypatch):
    monkeypatch.setattr(parquet, "_MEMORY_MIB", 1)
    with pytest.raises(Unavailable, match="cannot be written"):
        parquet.write_missing(ledger.directory, ledger.size)
    assert files(ledger) == []


async def test_the_service_has_them_written_beside_itself(ledger, monkeypatch):
    monkeypatch.setattr(parquet_child, "_LOOK_S", 0.05)
    keeping = asyncio.create_task(parquet_child.keep_parquet(ledger.directory, lambda: ledger.size, write=True))
    try:
        async with asyncio.timeout(30):
            while not (ledger.directory / "parquet").exists() or len(files(ledger)) < 3:
                await asyncio.sleep(0.02)
            ledger.expire(time.time_ns() + 10**9)
            left = len(list((ledger.directory / "segments").iterdir())) - 1
            while len(files(ledger)) != left:
                await asyncio.sleep(0.02)
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


async def test_a_program_that_fails_is_told_and_tried_again(ledger, monkeypatch):
    monkeypatch.setattr(parquet_child, "_AFTER_FAILURE_S", 0.05)
    path = min((ledger.directory / "segments").iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" + whole[101:])
    said = []
    monkeypatch.setattr(parquet_child.log, "warning", lambda _, error: said.append(error))
    keeping = asyncio.create_task(parquet_child.keep_parquet(ledger.directory, lambda: ledger.size, write=True))
    try:
        async with asyncio.timeout(30):
            while not said:
                await asyncio.sleep(0.02)
            assert "damaged" in said[0]
            path.write_bytes(whole)
            while not (ledger.directory / "parquet").exists() or not files(ledger):
                await asyncio.sleep(0.02)
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])

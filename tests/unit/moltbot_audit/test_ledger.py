from __future__ import annotations

import errno
import queue
import sqlite3
import time

import pytest
from moltbot.audit.v1 import audit_pb2

from moltbot_audit import merkle
from moltbot_audit.checkpoint import verify
from moltbot_audit.records import Filter
from moltbot_mesh.errors import (
    AlreadyExists,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from moltbot_mesh.uuid7 import uuid7

END = 1 << 62


def covered(ledger, size):
    deadline_s = time.monotonic() + 5
    while ledger.checkpoint()[1].size < size:
        assert time.monotonic() < deadline_s, "no checkpoint came"
        time.sleep(0.005)


def test_records_get_sequences_from_zero_on(open_ledger, record):
    ledger = open_ledger()
    assert ledger.append([record(), record()]) == [0, 1]
    assert ledger.append([record()]) == [2]
    assert ledger.size == 3


def test_a_record_sent_again_gets_its_first_sequence(open_ledger, record):
    ledger = open_ledger()
    one, two = record(), record()
    assert ledger.append([one, two, one]) == [0, 1, 0]
    assert ledger.append([two, record(), one]) == [1, 2, 0]
    assert ledger.size == 3


def test_an_old_record_sent_again_after_a_restart_gets_its_first_sequence(open_ledger, record):
    ledger = open_ledger()
    records = [record() for _ in range(50)]
    ledger.append(records)
    ledger.close()
    assert open_ledger().append(records[::-1]) == list(range(50))[::-1]


def test_ids_that_were_forgotten_are_found_in_the_index(open_ledger, record, monkeypatch):
    monkeypatch.setattr("moltbot_audit.seen._GENERATION", 4)
    ledger = open_ledger()
    records = [record(event_id=uuid7()) for _ in range(40)]
    for one in records:
        ledger.append([one])
        assert ledger.get(one.event_id).payload == one.payload
    assert len(ledger._committer._seen._young) + len(ledger._committer._seen._old) < 12
    assert [ledger.append([one])[0] for one in records] == list(range(40))


def test_the_same_id_with_another_body_is_refused_and_nothing_of_its_batch_taken(open_ledger, record):
    ledger = open_ledger()
    first = record()
    ledger.append([first])
    with pytest.raises(AlreadyExists):
        ledger.append([record(), record(event_id=first.event_id, tenant="other")])
    again = uuid7()
    with pytest.raises(AlreadyExists):
        ledger.append([record(event_id=again), record(event_id=again, tenant="other")])
    assert ledger.size == 1


def test_a_record_larger_than_a_segment_is_refused(open_ledger, record):
    ledger = open_ledger(segment_bytes=1 << 12)
    with pytest.raises(InvalidArgument):
        ledger.append([record(object="x" * 5000)])
    assert ledger.append([record()]) == [0]


def test_events_are_found_by_id_sequence_trace_request_and_filters(open_ledger, record):
    ledger = open_ledger()
    trace = b"t" * 16
    records = [
        record(trace_id=trace, request_id="r1", time_unix_ns=200, tenant="a"),
        record(trace_id=trace, request_id="r2", time_unix_ns=100, tenant="b", model="m"),
        record(request_id="r1", time_unix_ns=300, tenant="a", outcome=audit_pb2.OUTCOME_REFUSED),
    ]
    ledger.append(records)
    assert ledger.get(records[1].event_id).sequence == 1
    assert ledger.at(2).payload == records[2].payload
    assert [found.sequence for found in ledger.trace(trace)] == [1, 0]

    def sequences(wanted, before=END, limit=10):
        return [found.sequence for found in ledger.query(wanted, before, limit)]

    assert sequences(Filter()) == [2, 1, 0]
    assert sequences(Filter(), before=2, limit=1) == [1]
    assert sequences(Filter(request_id="r1")) == [2, 0]
    assert sequences(Filter(tenant="b", model="m")) == [1]
    assert sequences(Filter(outcome=audit_pb2.OUTCOME_REFUSED)) == [2]
    assert sequences(Filter(start_ns=100, end_ns=300)) == [1, 0]
    with pytest.raises(NotFound):
        ledger.get(uuid7())
    with pytest.raises(NotFound):
        ledger.at(3)


def test_every_record_can_be_proven_under_the_signed_checkpoint(open_ledger, record):
    ledger = open_ledger()
    records = [record() for _ in range(600)]
    ledger.append(records)
    covered(ledger, 600)
    for index in (0, 255, 256, 599):
        proof = ledger.inclusion_proof(records[index].event_id)
        head = verify(proof.checkpoint, ledger.verifier_key)
        leaf = merkle.leaf_hash(records[index].payload)
        assert merkle.verify_inclusion(leaf, index, head.size, proof.hashes, head.root)
        assert ledger.inclusion_proof(index) == proof


def test_a_later_log_is_proven_to_extend_an_earlier_one(open_ledger, record):
    ledger = open_ledger()
    ledger.append([record() for _ in range(300)])
    covered(ledger, 300)
    _, before = ledger.checkpoint()
    ledger.append([record() for _ in range(77)])
    covered(ledger, 377)
    _, after = ledger.checkpoint()
    second, proof = ledger.consistency_proof(before.size)
    assert second == 377
    assert merkle.verify_consistency(before.size, second, proof, before.root, after.root)
    with pytest.raises(FailedPrecondition):
        ledger.consistency_proof(1, 378)


def test_a_record_behind_the_checkpoint_is_not_provable_yet(open_ledger, record):
    ledger = open_ledger(checkpoint_interval_s=60)
    ledger.append([record()])
    with pytest.raises(FailedPrecondition, match="again"):
        ledger.inclusion_proof(0)


def test_closing_signs_what_stands_and_a_restart_goes_on(open_ledger, record):
    ledger = open_ledger(checkpoint_interval_s=60)
    ledger.append([record() for _ in range(1000)])
    ledger.close()
    again = open_ledger(checkpoint_interval_s=60)
    assert again.checkpoint()[1].size == 1000
    assert again.append([record()]) == [1000]
    again.close()
    assert again.verify().ok
    with pytest.raises(Unavailable):
        again.append([record()])


def test_a_second_process_is_refused(open_ledger):
    open_ledger()
    with pytest.raises(Unavailable, match="another process"):
        open_ledger()


def test_index_and_tiles_are_rebuilt_from_the_segments(open_ledger, directory, record):
    ledger = open_ledger()
    records = [record(trace_id=b"t" * 16) for _ in range(700)]
    ledger.append(records)
    ledger.close()
    for path in [*directory.glob("index.sqlite*"), *(p for p in directory.rglob("tile/*/*") if p.is_file())]:
        path.unlink()
    again = open_ledger()
    assert len(again.trace(b"t" * 16)) == 700
    assert again.append([records[5]]) == [5]
    assert again.verify().ok


def test_a_damaged_index_is_thrown_away(open_ledger, directory, record):
    ledger = open_ledger()
    one = record()
    ledger.append([one])
    ledger.close()
    (directory / "index.sqlite").write_bytes(b"not a database" * 100)
    assert open_ledger().get(one.event_id).sequence == 0


def test_a_log_that_lost_acknowledged_records_does_not_open(open_ledger, directory, record):
    ledger = open_ledger()
    ledger.append([record() for _ in range(10)])
    ledger.close()
    path = next((directory / "segments").glob("*.seg"))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataLoss):
        open_ledger()


def test_what_is_never_together_in_blocks_that_hold_both_is_not_looked_for_past_the_deadline(
    open_ledger, record, monkeypatch
):
    monkeypatch.setattr("moltbot_audit.index._QUERY_S", -1.0)
    ledger = open_ledger()
    ledger.append([record(subject="ab"[n % 2], model="xy"[n % 2]) for n in range(9000)])
    with pytest.raises(DeadlineExceeded, match="shorter time"):
        ledger.query(Filter(subject="a", model="y"), END, 10)


def test_expired_segments_go_and_every_proof_stays(open_ledger, directory, record):
    ledger = open_ledger(segment_bytes=1 << 14)
    records = [record() for _ in range(1000)]
    for start in range(0, 1000, 50):
        ledger.append(records[start : start + 50])
    covered(ledger, 1000)
    removed = ledger.expire(time.time_ns() + 10**9)
    assert 512 < removed <= 768
    with pytest.raises(NotFound):
        ledger.get(records[0].event_id)
    assert ledger.at(removed).payload == records[removed].payload
    proof = ledger.inclusion_proof(removed)
    head = verify(proof.checkpoint, ledger.verifier_key)
    assert merkle.verify_inclusion(
        merkle.leaf_hash(records[removed].payload), removed, head.size, proof.hashes, head.root
    )
    ledger.close()
    for path in (directory / "tile/1").rglob("*"):
        if path.is_file():
            path.unlink()
    again = open_ledger(segment_bytes=1 << 14)
    report = again.verify()
    assert report.problems == ()
    assert (report.ok, report.records, report.covered) == (True, 1000 - removed, 1000)


def test_nothing_young_expires(open_ledger, record):
    ledger = open_ledger(segment_bytes=1 << 14)
    ledger.append([record() for _ in range(1000)])
    covered(ledger, 1000)
    assert ledger.expire(time.time_ns() - 3600 * 10**9) == 0


def refusing(*_args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_refuses_records_says_so_and_recovers_alone(open_ledger, record, monkeypatch):
    ledger = open_ledger()
    ledger.append([record()])
    kept = record()
    with monkeypatch.context() as patch:
        patch.setattr("moltbot_audit.segment.os.fdatasync", refusing)
        with pytest.raises(ResourceExhausted, match="disk is full"):
            ledger.append([kept])
        assert "disk is full" in ledger.problem
    assert ledger.append([kept]) == [1]
    assert ledger.problem == ""
    ledger.close()
    assert ledger.verify().ok


def test_a_checkpoint_that_cannot_be_written_comes_when_it_can(open_ledger, record, monkeypatch):
    ledger = open_ledger()
    with monkeypatch.context() as patch:
        patch.setattr("moltbot_audit.integrate.replace_durably", refusing)
        ledger.append([record()])
        deadline_s = time.monotonic() + 5
        while not ledger.problem:
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        assert ledger.checkpoint()[1].size == 0
    covered(ledger, 1)
    assert ledger.problem == ""


def test_a_log_closes_while_too_much_waits_for_an_index_that_cannot_be_written(open_ledger, record, monkeypatch):
    monkeypatch.setattr("moltbot_audit.indexer._RETRY_S", 0.01)
    monkeypatch.setattr("moltbot_audit.backlog._MOST", 4)
    answers = queue.SimpleQueue()

    def failing(*_):
        raise sqlite3.OperationalError("database or disk is full")

    ledger = open_ledger()
    with monkeypatch.context() as patch:
        patch.setattr("moltbot_audit.blocks.Blocks.add", failing)
        for _ in range(5):
            ledger.append([record(tenant="acme")])
        ledger.submit([record(tenant="acme")], answers.put)  # waits: the index is five behind
        ledger.close()
    assert answers.get(timeout=10) == [5]
    assert len(open_ledger().query(Filter(tenant="acme"), 1 << 62, 10)) == 6


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), MemoryError()])
def test_an_index_that_cannot_be_written_is_filled_when_it_can(open_ledger, record, monkeypatch, error):
    monkeypatch.setattr("moltbot_audit.indexer._RETRY_S", 0.01)
    ledger = open_ledger()
    one = record()

    def failing(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("moltbot_audit.blocks.Blocks.add", failing)
        assert ledger.append([one]) == [0]
        deadline_s = time.monotonic() + 5
        while "index" not in ledger.problem:
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
    assert ledger.get(one.event_id).sequence == 0
    assert ledger.problem == ""

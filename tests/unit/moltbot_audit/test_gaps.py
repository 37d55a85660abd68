"""What producers counted and the log does not have is named, and told apart by who said so."""

from __future__ import annotations

import pytest
from moltbot.audit.v1 import audit_pb2

from moltbot_audit.event import decode, numbered
from moltbot_audit.gaps import find_gaps
from moltbot_audit.segment import segments
from moltbot_mesh.audit.queued import gap_event

ME, OTHER = b"p" * 16, b"q" * 16


@pytest.fixture
def written(open_ledger, directory, event):
    """A log with records of given counters; a pair stands for an epoch and a counter, an event for itself."""

    def write(*counters, producer_id=ME, close=True, segment_bytes=1 << 16):
        ledger = open_ledger(segment_bytes=segment_bytes)
        for one in counters:
            if isinstance(one, audit_pb2.AuditEvent):
                made = event()
                made.MergeFrom(one)
            else:
                epoch, counter = one if isinstance(one, tuple) else (1, one)
                made = event(producer=audit_pb2.Producer(producer_id=producer_id, epoch=epoch, counter=counter))
            ledger.append([decode(made.SerializeToString())])
        if close:
            ledger.close()
        return find_gaps(directory, numbered)

    return write


def gap(counter, first, last, dropped, epoch=0, in_epoch=1):
    declared = gap_event("gateway", first, last, dropped, epoch)
    declared.producer.CopyFrom(audit_pb2.Producer(producer_id=ME, epoch=in_epoch, counter=counter))
    return declared


def test_a_log_of_what_was_counted_has_no_gap(written, event):
    report = written(1, 2, 3, event(), (2, 1), (2, 2))
    assert report.ok
    assert report.records == 6
    assert [(e.epoch, e.first, e.last, e.missing) for e in report.epochs] == [(1, 1, 3, ()), (2, 1, 2, ())]


@pytest.mark.parametrize(
    ("counters", "missing"),
    [
        ((1, 3, 4, 9), ((2, 2), (5, 8))),
        ((3, 4), ((1, 2),)),
        ((1, 5, 3, 4, 7, 6), ((2, 2),)),
    ],
)
def test_what_is_missing_between_others_or_before_the_first_is_a_finding(written, counters, missing):
    report = written(*counters)
    assert not report.ok
    assert report.epochs[0].missing == missing
    assert report.undeclared == report.lost == sum(last - first + 1 for first, last in missing)


def test_another_order_is_no_gap(written):
    assert written(2, 1, 5, 4, 3).ok


def test_what_the_producer_declared_is_no_finding(written):
    report = written(1, 2, 5, gap(6, 3, 4, 2))
    assert report.ok
    assert (report.lost, report.undeclared) == (2, 0)


def test_more_missing_than_declared_is_a_finding(written):
    report = written(1, 6, gap(7, 2, 5, 3))
    assert not report.ok
    assert (report.lost, report.undeclared) == (4, 1)


def test_a_declaration_that_is_no_number_explains_nothing(written):
    wild = gap(4, 2, 2, 1)
    wild.attributes["first_counter"] = "9" * 5000
    assert written(1, 3, wild).undeclared == 1


def test_a_gap_elsewhere_explains_nothing(written):
    report = written(1, 2, 5, gap(6, 7, 9, 3))
    assert report.undeclared == 2


def test_an_epoch_that_ended_in_trouble_is_declared_by_the_next(written):
    report = written(1, 2, 6, gap(1, 3, None, None, epoch=1, in_epoch=2))
    assert report.ok
    assert (report.epochs[0].declared, report.epochs[0].open_from) == (3, 3)


def test_the_word_of_another_producer_explains_nothing(written):
    written(1, 3)
    foreign = gap(1, 2, 2, 1)
    foreign.producer.producer_id = OTHER
    assert written(foreign).undeclared == 1


def test_a_counter_that_stands_twice_is_a_finding(written):
    report = written(1, 2, 2, 3)
    assert not report.ok
    assert report.epochs[0].twice == 1


def test_what_has_expired_is_not_missing_but_what_came_later_is(written, directory):
    written(*range(1, 201), segment_bytes=1 << 14)
    (_, oldest), (first, _), *_ = segments(directory / "segments")
    oldest.unlink()
    report = find_gaps(directory, numbered)
    assert report.ok
    assert report.epochs[0].first == first + 1


def test_an_epoch_that_began_after_another_lacks_its_beginning(written, directory):
    written(*range(1, 150), *((2, n) for n in range(3, 60)), segment_bytes=1 << 14)
    segments(directory / "segments")[0][1].unlink()
    report = find_gaps(directory, numbered)
    assert [epoch.missing for epoch in report.epochs] == [(), ((1, 2),)]


def test_a_damaged_record_is_a_finding_with_its_place(written, directory):
    written(1, 2, 3)
    path = segments(directory / "segments")[0][1]
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    report = find_gaps(directory, numbered)
    assert not report.ok
    assert "(record 0)" in report.problems[0]
    assert report.epochs[0].missing == ((1, 1),)


def test_a_log_that_is_written_to_can_be_read(written):
    assert written(1, 2, close=False).ok

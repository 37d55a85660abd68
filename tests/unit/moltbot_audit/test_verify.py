from __future__ import annotations

import shutil

import pytest

from moltbot_audit import merkle
from moltbot_audit.segment import read, segments
from moltbot_audit.tiles import Tree
from moltbot_audit.verify import verify_directory
from moltbot_mesh.audit import frames


@pytest.fixture
def log(open_ledger, directory, record):
    """A closed log of 1,000 records in several segments."""
    ledger = open_ledger(segment_bytes=1 << 14)
    for _ in range(20):
        ledger.append([record() for _ in range(50)])
    ledger.close()
    return directory


def segment_of(log, sequence):
    first, path = [(f, p) for f, p in segments(log / "segments") if f <= sequence][-1]
    return path, [item for item in read(path, first) if isinstance(item, frames.Frame)]


def rewrite(path, found):
    """The same file with other frames in it, their checksums right."""
    size = path.stat().st_size
    data = path.read_bytes()[:16]
    for number, payload in found:
        data += frames.encode(number, [payload], commit=False)[0]
    path.write_bytes(data + bytes(size - len(data)))


def problems(log, key=""):
    report = verify_directory(log, key)
    assert report.done
    return "\n".join(report.problems)


def test_an_intact_log_has_no_problems(log):
    report = verify_directory(log)
    assert (report.ok, report.records, report.covered) == (True, 1000, 1000)


@pytest.mark.parametrize("sequence", [0, 255, 256, 700, 999])
def test_a_flipped_bit_is_found_at_its_record(log, sequence):
    path, found = segment_of(log, sequence)
    frame = next(item for item in found if item.number == sequence)
    data = bytearray(path.read_bytes())
    data[frame.offset + 40] ^= 1
    path.write_bytes(data)
    assert f"record {sequence})" in problems(log)


@pytest.mark.parametrize("sequence", [0, 300, 999])
def test_a_record_rewritten_with_a_right_checksum_is_found(log, sequence):
    path, found = segment_of(log, sequence)
    rewrite(path, [(f.number, f.payload[:-1] + b"!" if f.number == sequence else f.payload) for f in found])
    told = problems(log)
    assert f"record {sequence} is not the one that was logged" in told
    assert "root that the checkpoint signs" in told


def test_a_record_rewritten_together_with_its_tiles_is_found(log):
    path, found = segment_of(log, 300)
    rewrite(path, [(f.number, b"forged" if f.number == 300 else f.payload) for f in found])
    leaves = [merkle.leaf_hash(f.payload) for first, p in segments(log / "segments") for f in read(p, first)]
    shutil.rmtree(log / "tile")
    forged = Tree(log)
    for leaf in leaves:
        forged.append(leaf)
    forged.publish()
    assert "the first 1000 records do not give the root that the checkpoint signs" in problems(log)


def test_a_dropped_record_is_found(log):
    path, found = segment_of(log, 300)
    rewrite(path, [(f.number, f.payload) for f in found if f.number != 300])
    assert "records 300 to 300 are missing" in problems(log)


def test_records_that_changed_places_are_found(log):
    path, found = segment_of(log, 300)
    by_number = {f.number: f.payload for f in found}
    by_number[300], by_number[301] = by_number[301], by_number[300]
    rewrite(path, sorted(by_number.items()))
    told = problems(log)
    assert "record 300 is not the one" in told
    assert "record 301 is not the one" in told
    order = [f.number for f in found]
    at = order.index(300)
    order[at : at + 2] = [301, 300]
    payloads = {f.number: f.payload for f in found}
    rewrite(path, [(number, payloads[number]) for number in order])
    assert "(record 300): record 301 stands in its place" in problems(log)


@pytest.mark.parametrize("end", [100, 500, 990])
def test_a_truncated_log_is_found(log, end):
    path, found = segment_of(log, end)
    frame = next(item for item in found if item.number == end)
    data = path.read_bytes()
    path.write_bytes(data[: frame.offset] + bytes(len(data) - frame.offset))
    for first, later in segments(log / "segments"):
        if first > end:
            later.unlink()
    assert f"the log ends at record {end}, but the signed checkpoint covers 1000" in problems(log)


def test_a_missing_segment_is_found_wherever_it_was(log):
    found = segments(log / "segments")
    assert len(found) > 3
    found[0][1].unlink()
    found[2][1].unlink()
    told = problems(log)
    assert f"records 0 to {found[1][0] - 1} are missing" in told
    assert f"records {found[2][0]} to {found[3][0] - 1} are missing" in told


def test_two_segments_that_changed_names_are_found(log):
    (_, a), (_, b) = segments(log / "segments")[:2]
    spare = a.with_suffix(".spare")
    a.rename(spare)
    b.rename(a)
    spare.rename(b)
    assert "the header is not that of this segment" in problems(log)


@pytest.mark.parametrize("name", ["tile/0/001", "tile/0/003.p/232", "tile/1/000.p/3"])
def test_a_changed_tile_is_named(log, name):
    path = log / name
    data = bytearray(path.read_bytes())
    data[33] ^= 1
    path.write_bytes(data)
    assert name in problems(log)


def test_an_older_checkpoint_still_vouches_for_its_records_alone(open_ledger, log, record):
    old = (log / "checkpoint").read_text()
    ledger = open_ledger(segment_bytes=1 << 15)
    ledger.append([record() for _ in range(500)])
    ledger.close()
    (log / "checkpoint").write_text(old)
    report = verify_directory(log)
    assert (report.problems, report.records, report.covered) == ((), 1500, 1000)


def test_another_key_or_a_changed_checkpoint_is_found(log):
    note = (log / "checkpoint").read_text()
    (log / "checkpoint").write_text(note.replace("\n1000\n", "\n1001\n"))
    assert "no valid signature" in problems(log)
    (log / "checkpoint").unlink()
    assert "cannot be read" in problems(log)


def test_a_horizon_that_the_log_did_not_sign_is_found(log):
    (log / "horizon").write_text("test/log\nhorizon\n200\n\n")
    assert "no valid signature" in problems(log)


def test_a_log_that_is_being_written_to_verifies(open_ledger, directory, record):
    ledger = open_ledger(checkpoint_interval_s=0.01)
    for _ in range(30):
        ledger.append([record() for _ in range(37)])
        assert ledger.verify().problems == ()

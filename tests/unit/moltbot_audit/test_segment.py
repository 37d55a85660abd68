from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moltbot_audit.segment import Damage, SegmentWriter, read, segments
from moltbot_mesh.audit import frames
from moltbot_mesh.errors import DataLoss, ResourceExhausted, Unavailable


def opened(directory, covered=0, segment_bytes=1 << 14, **options) -> SegmentWriter:
    writer = SegmentWriter(directory, segment_bytes, **options)
    writer.recover(covered)
    return writer


def payloads(directory) -> list[bytes]:
    found = [item for first, path in segments(directory) for item in read(path, first)]
    assert not [item for item in found if isinstance(item, Damage)]
    assert [item.number for item in found] == list(range(len(found)))
    return [item.payload for item in found]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=30), max_size=12))
def test_what_was_appended_is_read_again(tmp_path_factory, batches):
    directory = tmp_path_factory.mktemp("segments")
    writer = opened(directory, segment_bytes=1 << 10)
    for batch in batches:
        first = writer.next_sequence
        places = writer.append(batch)
        assert len(places) == len(batch)
        assert writer.next_sequence == first + len(batch)
    writer.close()
    assert payloads(directory) == [payload for batch in batches for payload in batch]
    again = opened(directory, sum(map(len, batches)), segment_bytes=1 << 10)
    assert again.next_sequence == sum(map(len, batches))
    again.close()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2000), st.booleans())
def test_a_commit_torn_at_any_byte_is_cut_off_and_the_ones_before_it_stay(tmp_path_factory, cut, zeros):
    directory = tmp_path_factory.mktemp("segments")
    writer = opened(directory)
    writer.append([b"kept"] * 5)
    end = writer._offset
    writer.append([b"torn" * 10] * 30)
    writer.close()
    path = segments(directory)[0][1]
    data = bytearray(path.read_bytes())
    at = end + cut
    data[at:] = bytes(len(data) - at) if zeros else os.urandom(64) + bytes(max(0, len(data) - at - 64))
    path.write_bytes(data)
    again = opened(directory, covered=5)
    assert 5 <= again.next_sequence <= 35
    assert again.append([b"next"])[0][1] == 0
    again.close()
    found = payloads(directory)
    assert found[:5] == [b"kept"] * 5
    assert found[-1] == b"next"


def test_a_torn_commit_whose_later_pages_reached_the_disk_first_is_cut_off(tmp_path):
    writer = opened(tmp_path)
    writer.append([b"kept"])
    end = writer._offset
    writer.append([b"torn"] * 10)
    writer.close()
    path = segments(tmp_path)[0][1]
    data = bytearray(path.read_bytes())
    data[end : end + 24] = bytes(24)
    path.write_bytes(data)
    again = opened(tmp_path, covered=1)
    assert again.next_sequence == 1
    again.close()


def test_damage_before_a_later_commit_is_no_torn_write(tmp_path):
    writer = opened(tmp_path)
    writer.append([b"flipped"])
    writer.append([b"later"])
    writer.close()
    path = segments(tmp_path)[0][1]
    data = bytearray(path.read_bytes())
    data[34] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataLoss, match="record 0"):
        opened(tmp_path)


def test_fewer_records_than_a_checkpoint_covers_are_a_loss(tmp_path):
    opened(tmp_path).close()
    with pytest.raises(DataLoss, match="covers 1"):
        opened(tmp_path, covered=1)


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "posix_fallocate"])
@pytest.mark.parametrize(("number", "refusal"), [(errno.ENOSPC, ResourceExhausted), (errno.EIO, Unavailable)])
def test_a_failing_disk_refuses_all_of_a_batch_and_is_used_again(tmp_path, monkeypatch, call, number, refusal):
    writer = opened(tmp_path, segment_bytes=1 << 10)
    writer.append([b"before"] * 20)
    real, left = getattr(os, call), 1

    def failing(*args):
        nonlocal left
        if left > 0:
            left -= 1
            return real(*args)
        raise OSError(number, os.strerror(number))

    batch = [b"x" * 100] * 30  # over several segments
    with monkeypatch.context() as patch:
        patch.setattr(f"moltbot_audit.segment.os.{call}", failing)
        for _ in range(2):
            with pytest.raises(refusal):
                writer.append(batch)
    assert writer.next_sequence == 20
    writer.append([b"after"])
    writer.append(batch)
    writer.close()
    assert payloads(tmp_path) == [b"before"] * 20 + [b"after"] + batch


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    writer = opened(tmp_path)
    real = os.pwrite
    monkeypatch.setattr("moltbot_audit.segment.os.pwrite", lambda file, data, at: real(file, bytes(data)[:7], at))
    writer.append([b"whole" * 20])
    writer.close()
    assert payloads(tmp_path) == [b"whole" * 20]


def test_frames_behind_a_damaged_one_are_still_read():
    data = b"".join(frames.encode(7, [b"one", b"two", b"three"], commit=True))
    second = frames.frame_bytes(3)
    damaged = bytearray(data + bytes(64))
    damaged[second + 17] ^= 0x40
    found = list(frames.read(bytes(damaged), 0, 7))
    assert [item.number for item in found] == [7, 8, 9]
    assert isinstance(found[1], frames.Damage)
    assert found[2].payload == b"three"


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4), st.integers(0, 15), st.data())
def test_no_bit_of_a_file_changes_unseen(written, behind, choice):
    data = b"".join(frames.encode(7, written, commit=True)) + bytes(behind)
    assert [item.payload for item in frames.read(data, 0, 7)] == written
    changed = bytearray(data)
    changed[choice.draw(st.integers(0, len(data) - 1))] ^= 1 << choice.draw(st.integers(0, 7))
    assert any(isinstance(item, frames.Damage) for item in frames.read(bytes(changed), 0, 7))

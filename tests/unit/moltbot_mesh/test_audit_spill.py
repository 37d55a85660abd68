from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moltbot_mesh.audit.spill import Spill, open_spill
from moltbot_mesh.errors import ResourceExhausted, Unavailable


def drain(spill, start=None, most=10):
    found, position = [], start or spill.start
    while True:
        payloads, position = spill.read(position, most, 1 << 20)
        if not payloads:
            return found, position
        found += payloads


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=20)), st.integers(1, 30))
def test_events_come_out_in_order_also_after_a_restart(tmp_path_factory, batches, most):
    directory = tmp_path_factory.mktemp("spill")
    spill = Spill(directory, 1 << 20)
    for batch in batches:
        spill.append(batch, sync=False)
    expected = [payload for batch in batches for payload in batch]
    assert drain(spill, most=most)[0] == expected
    spill.close()
    again = Spill(directory, 1 << 20)
    assert drain(again, most=most)[0] == expected
    again.append([b"next"], sync=True)
    assert drain(again, most=most)[0] == [*expected, b"next"]
    again.close()


def test_acknowledged_files_go_and_the_rest_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("moltbot_mesh.audit.spill._FILE_BYTES", 1000)
    spill = Spill(tmp_path, 1 << 20)
    for n in range(100):
        spill.append([b"%03d" % n * 30], sync=False)
    before = spill.size_bytes
    payloads, position = spill.read(spill.start, 55, 1 << 20)
    while len(payloads) < 55:
        more, position = spill.read(position, 55 - len(payloads), 1 << 20)
        payloads += more
    spill.release(position)
    assert spill.size_bytes < before / 1.8
    rest, end = drain(spill, position)
    assert rest == [b"%03d" % n * 30 for n in range(55, 100)]
    spill.release(end)
    assert spill.size_bytes < 1000
    spill.append([b"more"], sync=False)
    assert drain(spill, end)[0] == [b"more"]
    spill.close(drain(spill, end)[1])
    assert not list(tmp_path.glob("*.spill"))


def test_each_start_has_a_higher_epoch_and_the_same_id(tmp_path):
    starts = []
    for _ in range(3):
        spill = Spill(tmp_path, 1000)
        starts.append((spill.producer_id, spill.epoch))
        spill.close()
    assert [epoch for _, epoch in starts] == [1, 2, 3]
    assert len({producer_id for producer_id, _ in starts}) == 1


def test_a_full_spill_refuses_and_keeps_its_reserve(tmp_path):
    spill = Spill(tmp_path, 1000)
    spill.append([b"x" * 500], sync=False)
    with pytest.raises(ResourceExhausted):
        spill.append([b"x" * 200], sync=False, reserve_bytes=400)
    spill.append([b"x" * 200], sync=True)
    with pytest.raises(ResourceExhausted):
        spill.append([b"x" * 500], sync=True)
    assert len(drain(spill)[0]) == 2
    spill.close()


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_failing_disk_takes_nothing_and_is_used_again(tmp_path, monkeypatch, call):
    spill = Spill(tmp_path, 1 << 20)
    spill.append([b"before"], sync=True)

    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(f"moltbot_mesh.audit.spill.os.{call}", failing)
        with pytest.raises(Unavailable, match="Input/output"):
            spill.append([b"lost"], sync=True)
    spill.append([b"after"], sync=True)
    assert drain(spill)[0] == [b"before", b"after"]
    spill.close()


def test_a_torn_end_costs_only_what_was_torn(tmp_path):
    spill = Spill(tmp_path, 1 << 20)
    spill.append([b"whole"], sync=False)
    spill.append([b"torn"], sync=False)
    spill.close()
    path = next(tmp_path.glob("*.spill"))
    os.truncate(path, path.stat().st_size - 6)
    again = Spill(tmp_path, 1 << 20)
    again.append([b"next"], sync=False)
    assert drain(again)[0] == [b"whole", b"next"]
    again.close()


def test_a_spill_is_for_one_process(tmp_path):
    spill = Spill(tmp_path, 1000)
    with pytest.raises(Unavailable, match="another process"):
        Spill(tmp_path, 1000)
    spill.close()


def test_several_processes_of_one_data_directory_have_a_spill_each(tmp_path):
    wanted = tmp_path / "spill"
    first, second, third = (open_spill(wanted, 1 << 20) for _ in range(3))
    assert [one.directory for one in (first, second, third)] == [wanted, tmp_path / "spill-2", tmp_path / "spill-3"]
    first.close()
    again = open_spill(wanted, 1 << 20)
    assert again.directory == wanted
    for one in (again, second, third):
        one.close()

"""A spill's newest events come from memory, all others from the disk, and nobody can tell the two apart."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from moltbot_mesh.audit import spill as module
from moltbot_mesh.audit.spill import Spill

if TYPE_CHECKING:
    from pathlib import Path


def _read_on(spill: Spill, start, most: int):
    newest = spill.newest(start, most, 1 << 20)
    return spill.read(start, most, 1 << 20) if newest is None else newest


def test_what_was_just_spilled_is_read_without_the_disk(tmp_path: Path):
    spill = Spill(tmp_path, 1 << 20)
    spill.append([b"one", b"two", b"three"], sync=False)
    for path in tmp_path.glob("*.spill"):
        path.write_bytes(b"")  # whoever looked there would find nothing
    first, position = spill.newest(spill.start, 2, 1 << 20) or ([], None)
    assert first == [b"one", b"two"]
    assert spill.newest(position, 2, 1 << 20)[0] == [b"three"]


def test_an_event_larger_than_a_batch_goes_alone(tmp_path: Path):
    spill = Spill(tmp_path, 1 << 20)
    spill.append([b"x" * 100, b"y"], sync=False)
    found, _ = spill.newest(spill.start, 10, 50)
    assert found == [b"x" * 100]


def test_whoever_has_read_all_is_told_so_without_the_disk(tmp_path: Path):
    spill = Spill(tmp_path, 1 << 20)
    spill.append([b"one"], sync=False)
    _, position = spill.newest(spill.start, 10, 1 << 20)
    assert spill.newest(position, 10, 1 << 20) == ([], position)


def test_a_place_that_was_read_before_is_read_from_the_disk(tmp_path: Path):
    spill = Spill(tmp_path, 1 << 20)
    start = spill.start
    spill.append([b"one", b"two"], sync=False)
    spill.newest(start, 1, 1 << 20)
    assert spill.newest(start, 10, 1 << 20) is None
    assert spill.read(start, 10, 1 << 20)[0] == [b"one", b"two"]


@pytest.mark.parametrize("seed", range(20))
def test_events_come_once_and_in_order_whatever_memory_holds(tmp_path: Path, monkeypatch, seed: int):
    draw = random.Random(seed)
    monkeypatch.setattr(module, "_RECENT_BYTES", draw.choice((0, 50, 400, 1 << 20)))
    monkeypatch.setattr(module, "_FILE_BYTES", draw.choice((64, 256, 1 << 20)))
    spill = Spill(tmp_path, 1 << 20)
    position, written, found = spill.start, [], []
    for _ in range(200):
        if draw.random() < 0.5:
            batch = [f"event {len(written) + n}".encode() for n in range(draw.randint(1, 5))]
            spill.append(batch, sync=False)
            written += batch
        else:
            events, position = _read_on(spill, position, draw.randint(1, 7))
            found += events
            if spill.frees(position):
                spill.release(position)
    while len(found) < len(written):
        events, position = _read_on(spill, position, 7)
        assert events
        found += events
    assert found == written
    spill.close(position)
    assert not list(tmp_path.glob("*.spill"))

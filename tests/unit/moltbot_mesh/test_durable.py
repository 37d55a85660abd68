"""What a power failure may leave of small files, told by the order in which the disk is asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moltbot_mesh.durable import create_durably, make_directories, replace_durably


@pytest.fixture
def disk(monkeypatch):
    """The names of what was synced, replaced and linked, in order."""
    told: list[str] = []
    fsync, replace, link = os.fsync, os.replace, os.link

    def note_fsync(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        told.append(f"sync {'directory' if name == 'place' else 'file'}")
        fsync(descriptor)

    def note(what, real):
        def call(source, target):
            told.append(what)
            real(source, target)

        return call

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note("replace", replace))
    monkeypatch.setattr(os, "link", note("link", link))
    return told


@pytest.fixture
def place(tmp_path):
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def test_content_is_on_disk_before_the_name_and_the_name_before_it_returns(place, disk):
    replace_durably(place / "checkpoint", b"new")
    assert disk == ["sync file", "replace", "sync directory"]
    assert (place / "checkpoint").read_bytes() == b"new"


def test_a_file_that_is_made_is_on_disk_before_it_returns(place, disk):
    assert create_durably(place / "key", b"secret")
    assert disk == ["sync file", "link", "sync directory"]
    assert (place / "key").stat().st_mode & 0o777 == 0o600


def test_a_directory_is_on_disk_with_those_above_it_before_it_returns(place, disk):
    make_directories(place / "deep" / "deeper")
    assert disk == ["sync directory", "sync file"]  # of `place`, then of `deep`
    assert (place / "deep").stat().st_mode & 0o777 == 0o700
    make_directories(place / "deep" / "deeper")
    assert len(disk) == 2


def test_a_file_is_no_directory(place):
    (place / "deep").touch()
    with pytest.raises(FileExistsError):
        make_directories(place / "deep")


def test_what_stands_is_neither_replaced_nor_left_beside(place):
    create_durably(place / "key", b"first")
    assert not create_durably(place / "key", b"second")
    assert [(path.name, path.read_bytes()) for path in place.iterdir()] == [("key", b"first")]


def test_a_disk_that_fails_keeps_the_old_content(place, monkeypatch):
    replace_durably(place / "checkpoint", b"old")

    def fail(_descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        replace_durably(place / "checkpoint", b"new")
    assert (place / "checkpoint").read_bytes() == b"old"

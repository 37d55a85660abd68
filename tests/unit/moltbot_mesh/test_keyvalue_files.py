from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from moltbot_mesh.errors import FailedPrecondition
from moltbot_mesh.keyvalue import FileKeyValueStore

if TYPE_CHECKING:
    from pathlib import Path


async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    store = FileKeyValueStore(tmp_path / "store")
    await store.put("api_keys/a", b"secret")
    await store.create("api_keys/b", b"secret")
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "store").iterdir()} == {0o600}


async def test_nothing_temporary_is_left_behind(tmp_path: Path) -> None:
    store = FileKeyValueStore(tmp_path)
    await store.put("a", b"1")
    await store.create("b", b"2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


async def test_what_a_killed_writer_left_is_removed_by_a_later_write(tmp_path: Path) -> None:
    abandoned, running = tmp_path / ".tmpold", tmp_path / ".tmpnew"
    abandoned.write_bytes(b"half")
    running.write_bytes(b"half")
    os.utime(abandoned, (1, 1))
    store = FileKeyValueStore(tmp_path)
    await store.put("a", b"1")
    assert not abandoned.exists()
    assert running.exists()
    assert await store.list("") == {"a": b"1"}


async def test_a_watch_sees_another_process_within_half_a_second(tmp_path: Path) -> None:
    ours, theirs = FileKeyValueStore(tmp_path), FileKeyValueStore(tmp_path)
    async with contextlib.aclosing(ours.watch("")) as watch, asyncio.timeout(20):
        assert await anext(watch) == {}
        delays_s: list[float] = []
        for value in (b"1", b"2", b"3"):
            await theirs.put("a", value)
            put_s = time.monotonic()
            assert await anext(watch) == {"a": value}
            delays_s.append(time.monotonic() - put_s)
    assert min(delays_s) < 0.5  # the others may have waited for the processor


async def test_refresh_makes_a_watch_look_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moltbot_mesh.keyvalue_files.POLL_S", 60)
    ours, theirs = FileKeyValueStore(tmp_path), FileKeyValueStore(tmp_path)
    async with contextlib.aclosing(ours.watch("")) as watch, asyncio.timeout(20):
        assert await anext(watch) == {}
        news = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.05)
        await theirs.put("a", b"1")
        await asyncio.sleep(0.05)
        assert not news.done()
        await ours.refresh()
        assert await news == {"a": b"1"}


async def test_a_change_within_the_resolution_of_the_directory_s_time_is_seen(tmp_path: Path) -> None:
    ours, theirs = FileKeyValueStore(tmp_path), FileKeyValueStore(tmp_path)
    async with contextlib.aclosing(ours.watch("")) as watch, asyncio.timeout(20):
        assert await anext(watch) == {}
        await theirs.put("a", b"1")
        seen = tmp_path.stat()
        assert await anext(watch) == {"a": b"1"}
        await theirs.put("b", b"2")
        os.utime(tmp_path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        assert await anext(watch) == {"a": b"1", "b": b"2"}


async def test_a_file_where_the_directory_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(FailedPrecondition, match=str(tmp_path / "store")):
        await FileKeyValueStore(tmp_path / "store").put("a", b"1")

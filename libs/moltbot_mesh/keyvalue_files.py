"""The key-value store of one node: one file a key."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote

from moltbot_mesh.durable import sync
from moltbot_mesh.errors import AlreadyExists, FailedPrecondition, InvalidArgument, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

R = TypeVar("R")

POLL_S = 0.2
"""How often a watch looks for what other processes changed, in seconds."""

_TEMPORARY = ".tmp"
_NAME_MAX_BYTES = 255
_MTIME_UNSURE_NS = 100_000_000
"""A directory's time has a resolution: a change this soon after the one that was seen may leave the same time."""
_ABANDONED_S = 3600.0


class Bell:
    """Wakes those who wait for a change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake all who wait."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    def next(self) -> asyncio.Event:
        """Set at the next ring."""
        return self._event


def file_name(key: str) -> str:
    """The name of a key's file.

    Raises:
        InvalidArgument: The key is empty or too long.
    """
    name = quote(key, safe="")
    if name.startswith("."):  # `.` and `..` are no file names, and ours with a dot are temporary
        name = "%2E" + name[1:]
    if not key or len(name) > _NAME_MAX_BYTES:
        raise InvalidArgument(f"key {key[:64]!r}: 1 to {_NAME_MAX_BYTES} bytes after URL quoting; this has {len(name)}")
    return name


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def already_exists(key: str) -> AlreadyExists:
    """The error of `KeyValueStore.create`."""
    return AlreadyExists(f"{key} stands already; choose another name, or remove it first")


class FileKeyValueStore:
    """One file a key, replaced and never edited in place; other processes' changes are seen within `POLL_S`.

    Args:
        directory: Made by the first write if it is not there, mode 0700. Must be a local file system.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._bell = Bell()
        self._looks = 0

    async def get(self, key: str) -> bytes | None:
        """See `KeyValueStore.get`."""
        return await self._in_thread(lambda: _read(self._path(key)))

    async def list(self, prefix: str) -> dict[str, bytes]:
        """See `KeyValueStore.list`."""
        return await self._in_thread(lambda: self._list(prefix))

    async def put(self, key: str, value: bytes) -> None:
        """See `KeyValueStore.put`."""
        await self._in_thread(lambda: self._write(self._path(key), value, os.replace))
        self._bell.ring()

    async def create(self, key: str, value: bytes) -> None:
        """See `KeyValueStore.create`."""
        try:
            # A link, unlike a rename, fails where something stands, and is never seen half written.
            await self._in_thread(lambda: self._write(self._path(key), value, os.link))
        except FileExistsError:
            raise already_exists(key) from None
        self._bell.ring()

    async def delete(self, key: str) -> bool:
        """See `KeyValueStore.delete`."""
        found = await self._in_thread(lambda: self._delete(self._path(key)))
        self._bell.ring()
        return found

    async def refresh(self) -> None:
        """Have all watches of this object look at once, without waiting for the next poll."""
        self._looks += 1
        self._bell.ring()

    async def watch(self, prefix: str) -> AsyncGenerator[dict[str, bytes]]:
        """See `KeyValueStore.watch`."""
        last: dict[str, bytes] | None = None
        seen: tuple[int, int] | None = None
        while True:
            bell, stamp = self._bell.next(), self._stamp()
            if stamp != seen or abs(time.time_ns() - stamp[0]) < _MTIME_UNSURE_NS:
                now = await self.list(prefix)
                seen = stamp
                if now != last:
                    last = now
                    yield dict(now)
                    continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await bell.wait()

    def _stamp(self) -> tuple[int, int]:
        """Changes with the directory: every write is a rename or a link, and each of those sets its time."""
        try:
            return self._directory.stat().st_mtime_ns, self._looks
        except FileNotFoundError:
            return 0, self._looks

    def _path(self, key: str) -> Path:
        return self._directory / file_name(key)

    async def _in_thread(self, work: Callable[[], R]) -> R:
        try:
            return await asyncio.to_thread(work)
        except FileExistsError:
            raise
        except OSError as error:
            what = f"{self._directory}: {error.strerror or error}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceExhausted(f"{what}; free some space there") from None
            raise FailedPrecondition(f"{what}; it must be a directory that user {os.getuid()} may write") from None

    def _list(self, prefix: str) -> dict[str, bytes]:
        try:
            names = [path.name for path in self._directory.iterdir()]
        except FileNotFoundError:
            return {}
        found: dict[str, bytes] = {}
        for key, name in sorted((unquote(name), name) for name in names if not name.startswith(".")):
            if key.startswith(prefix):
                value = _read(self._directory / name)
                if value is not None:  # removed in between
                    found[key] = value
        return found

    def _write(self, path: Path, value: bytes, place: Callable[[Path, Path], None]) -> None:
        if not self._directory.is_dir():
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except FileExistsError:
                raise NotADirectoryError(errno.ENOTDIR, "is a file") from None
        self._remove_abandoned()
        descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=self._directory)  # mode 0600
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(self._directory)

    def _remove_abandoned(self) -> None:
        """Remove what processes left that were killed while they wrote."""
        for path in self._directory.glob(f"{_TEMPORARY}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()

    def _delete(self, path: Path) -> bool:
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        sync(self._directory)
        return True

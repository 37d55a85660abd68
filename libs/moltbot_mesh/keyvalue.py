"""Small configuration that all instances see and watch: files on one node, etcd in a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, unquote

from moltbot_mesh.errors import AlreadyExists

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_POLL_S = 0.25


class KeyValueStore(Protocol):
    """Keys with slashes, values of at most a few kilobytes."""

    async def get(self, key: str) -> bytes | None:
        """The value, or `None`."""
        ...

    async def list(self, prefix: str) -> dict[str, bytes]:
        """All keys that begin with the prefix."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Set a value, durably."""
        ...

    async def create(self, key: str, value: bytes) -> None:
        """Set a value where none stands.

        Raises:
            AlreadyExists: One stands.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove a key; False if it was not there."""
        ...

    def watch(self, prefix: str) -> AsyncIterator[dict[str, bytes]]:
        """Yield all keys with the prefix, now and after each change."""
        ...


class MemoryKeyValueStore:
    """For tests and for processes that keep nothing."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._changed = asyncio.Condition()

    async def get(self, key: str) -> bytes | None:
        """See `KeyValueStore.get`."""
        return self._values.get(key)

    async def list(self, prefix: str) -> dict[str, bytes]:
        """See `KeyValueStore.list`."""
        return {key: value for key, value in self._values.items() if key.startswith(prefix)}

    async def put(self, key: str, value: bytes) -> None:
        """See `KeyValueStore.put`."""
        async with self._changed:
            self._values[key] = value
            self._changed.notify_all()

    async def create(self, key: str, value: bytes) -> None:
        """See `KeyValueStore.create`."""
        if key in self._values:
            raise AlreadyExists(f"{key} stands already")
        await self.put(key, value)

    async def delete(self, key: str) -> bool:
        """See `KeyValueStore.delete`."""
        async with self._changed:
            found = self._values.pop(key, None) is not None
            self._changed.notify_all()
        return found

    async def watch(self, prefix: str) -> AsyncIterator[dict[str, bytes]]:
        """See `KeyValueStore.watch`."""
        last: dict[str, bytes] | None = None
        while True:
            async with self._changed:
                now = await self.list(prefix)
                while now == last:
                    await self._changed.wait()
                    now = await self.list(prefix)
            last = now
            yield now


class FileKeyValueStore:
    """One file a key; other processes' changes are seen within a quarter of a second.

    Args:
        directory: Made if it is not there, mode 0700.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, key: str) -> Path:
        return self._directory / quote(key, safe="")

    async def get(self, key: str) -> bytes | None:
        """See `KeyValueStore.get`."""
        with contextlib.suppress(FileNotFoundError):
            return self._path(key).read_bytes()
        return None

    async def list(self, prefix: str) -> dict[str, bytes]:
        """See `KeyValueStore.list`."""
        found: dict[str, bytes] = {}
        for key, path in self._entries(prefix):
            with contextlib.suppress(FileNotFoundError):  # removed in between
                found[key] = path.read_bytes()
        return found

    def _entries(self, prefix: str) -> list[tuple[str, Path]]:
        try:
            names = sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return []
        keys = ((unquote(name), name) for name in names if not name.startswith(".tmp"))
        return [(key, self._directory / name) for key, name in keys if key.startswith(prefix)]

    async def put(self, key: str, value: bytes) -> None:
        """See `KeyValueStore.put`."""
        with self._written(value) as temporary:
            os.replace(temporary, self._path(key))
        self._sync_directory()

    async def create(self, key: str, value: bytes) -> None:
        """See `KeyValueStore.create`."""
        with self._written(value) as temporary:
            try:
                os.link(temporary, self._path(key))
            except FileExistsError:
                raise AlreadyExists(f"{key} stands already") from None
            finally:
                temporary.unlink()
        self._sync_directory()

    @contextlib.contextmanager
    def _written(self, value: bytes):  # noqa: ANN202 - a context of a path
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".tmp", dir=self._directory)  # mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    async def delete(self, key: str) -> bool:
        """See `KeyValueStore.delete`."""
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            return False
        self._sync_directory()
        return True

    async def watch(self, prefix: str) -> AsyncIterator[dict[str, bytes]]:
        """See `KeyValueStore.watch`."""
        seen: object = None
        last: dict[str, bytes] | None = None
        while True:
            stamp = self._stamp(prefix)
            if stamp != seen:
                seen = stamp
                now = await self.list(prefix)
                if now != last:
                    last = now
                    yield now
            await asyncio.sleep(_POLL_S)

    def _stamp(self, prefix: str) -> list[tuple[str, int, int]]:
        found: list[tuple[str, int, int]] = []
        for key, path in self._entries(prefix):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((key, stat.st_mtime_ns, stat.st_ino))
        return found

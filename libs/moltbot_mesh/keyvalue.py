"""Small configuration that all instances see and watch: files on one node, etcd in a cluster."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from moltbot_mesh.keyvalue_files import Bell, FileKeyValueStore, already_exists, file_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_mesh.etcd import EtcdClient

__all__ = ["EtcdKeyValueStore", "FileKeyValueStore", "KeyValueStore", "MemoryKeyValueStore"]


class KeyValueStore(Protocol):
    """Keys with slashes, values of at most a few kilobytes."""

    async def get(self, key: str) -> bytes | None:
        """The value, or `None`."""
        ...

    async def list(self, prefix: str) -> dict[str, bytes]:
        """All keys that begin with the prefix; all there are for an empty one."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Set a value, durably.

        Raises:
            InvalidArgument: The key is empty or too long.
        """
        ...

    async def create(self, key: str, value: bytes) -> None:
        """Set a value where none stands; of several who try at once, one succeeds.

        Raises:
            AlreadyExists: One stands.
            InvalidArgument: The key is empty or too long.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove a key; False if it was not there."""
        ...

    def watch(self, prefix: str) -> AsyncGenerator[dict[str, bytes]]:
        """Yield all keys with the prefix, now and after each change.

        Changes that come close together may come as one. The store not being there for a while is waited out.
        """
        ...


class MemoryKeyValueStore:
    """For tests and for processes that keep nothing."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._bell = Bell()

    async def get(self, key: str) -> bytes | None:
        """See `KeyValueStore.get`."""
        return self._values.get(key)

    async def list(self, prefix: str) -> dict[str, bytes]:
        """See `KeyValueStore.list`."""
        return {key: value for key, value in sorted(self._values.items()) if key.startswith(prefix)}

    async def put(self, key: str, value: bytes) -> None:
        """See `KeyValueStore.put`."""
        file_name(key)  # refuse what the others refuse
        self._values[key] = value
        self._bell.ring()

    async def create(self, key: str, value: bytes) -> None:
        """See `KeyValueStore.create`."""
        if key in self._values:
            raise already_exists(key)
        await self.put(key, value)

    async def delete(self, key: str) -> bool:
        """See `KeyValueStore.delete`."""
        found = self._values.pop(key, None) is not None
        self._bell.ring()
        return found

    async def watch(self, prefix: str) -> AsyncGenerator[dict[str, bytes]]:
        """See `KeyValueStore.watch`."""
        last: dict[str, bytes] | None = None
        while True:
            bell = self._bell.next()
            now = await self.list(prefix)
            if now != last:
                last = now
                yield dict(now)
            else:
                await bell.wait()


class EtcdKeyValueStore:
    """Keys under one prefix of an etcd cluster.

    Args:
        client: Not closed by this.
        prefix: Goes before each key; ends with a slash.
    """

    def __init__(self, client: EtcdClient, prefix: str = "/moltbot/store/") -> None:
        if not prefix.endswith("/"):
            raise ValueError(f"prefix {prefix!r} does not end with a slash: another prefix may begin with it")
        self._client = client
        self._prefix = prefix

    async def get(self, key: str) -> bytes | None:
        """See `KeyValueStore.get`."""
        found = await self._client.get(self._key(key))
        return None if found is None else found.value

    async def list(self, prefix: str) -> dict[str, bytes]:
        """See `KeyValueStore.list`."""
        listing = await self._client.get_prefix(self._prefix + prefix)
        return {key.removeprefix(self._prefix): value.value for key, value in listing.values.items()}

    async def put(self, key: str, value: bytes) -> None:
        """See `KeyValueStore.put`."""
        await self._client.put(self._key(key), value)

    async def create(self, key: str, value: bytes) -> None:
        """See `KeyValueStore.create`."""
        if not await self._client.put_if(self._key(key), value, mod_revision=0):
            raise already_exists(key)

    async def delete(self, key: str) -> bool:
        """See `KeyValueStore.delete`."""
        return await self._client.delete(self._key(key))

    async def watch(self, prefix: str) -> AsyncGenerator[dict[str, bytes]]:
        """See `KeyValueStore.watch`."""
        async with contextlib.aclosing(self._client.watch_prefix(self._prefix + prefix)) as changes:
            async for change in changes:
                yield {key.removeprefix(self._prefix): value.value for key, value in change.values.items()}

    def _key(self, key: str) -> str:
        file_name(key)  # refuse what the others refuse
        return self._prefix + key

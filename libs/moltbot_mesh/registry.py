"""Where the instances of services are: in this process, or in etcd under leases."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager


@dataclass(frozen=True, slots=True)
class Instance:
    """One running instance of a service."""

    service: str
    id: str
    target: str
    """gRPC target (`127.0.0.1:9001`, `unix:/run/mesh.sock`)."""
    metadata: dict[str, str] = field(default_factory=dict, hash=False)


class Registry(Protocol):
    """Finds instances."""

    def register(self, instance: Instance) -> AbstractAsyncContextManager[None]:
        """Announce an instance while the context is open."""
        ...

    def watch(self, service: str) -> AsyncIterator[frozenset[Instance]]:
        """Yield all instances of a service, now and after each change."""
        ...


class InProcessRegistry:
    """A registry of one process."""

    def __init__(self) -> None:
        self._instances: set[Instance] = set()
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def register(self, instance: Instance) -> AsyncIterator[None]:
        """See `Registry.register`."""
        async with self._changed:
            self._instances.add(instance)
            self._changed.notify_all()
        try:
            yield
        finally:
            async with self._changed:
                self._instances.discard(instance)
                self._changed.notify_all()

    async def watch(self, service: str) -> AsyncIterator[frozenset[Instance]]:
        """See `Registry.watch`."""
        last: frozenset[Instance] | None = None
        while True:
            async with self._changed:
                now = self._of(service)
                while now == last:
                    await self._changed.wait()
                    now = self._of(service)
            last = now
            yield now

    def _of(self, service: str) -> frozenset[Instance]:
        return frozenset(instance for instance in self._instances if instance.service == service)

"""Where the instances of services are: in this process, or in etcd under leases.

In etcd an instance stands at `/moltbot/services/<service>/<instance>`, as JSON (`{"target": …, "metadata": {…}}`),
under a lease that its process keeps alive: a process that dies is gone when the lease ends. While etcd cannot be
reached, those who watch keep what they know.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from moltbot_mesh.errors import InvalidArgument, MoltbotError
from moltbot_mesh.reconnect import backoff_s

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from contextlib import AbstractAsyncContextManager

    from moltbot_mesh.etcd import EtcdClient
    from moltbot_mesh.etcd_watch import EtcdValue

log = structlog.get_logger("moltbot.registry")

SERVICES = "/moltbot/services/"
"""Prefix of all instances in etcd."""
HTTP = "http"
"""Key in an instance's metadata: its address for HTTP/1.1 (`127.0.0.1:9002`)."""
LEASE_TTL_S = 10
"""How long an instance that died is still found, in seconds."""


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
        """Announce an instance while the context is open.

        Raises:
            Unavailable: On entry: the registry cannot be reached.
        """
        ...

    def watch(self, service: str) -> AsyncGenerator[frozenset[Instance]]:
        """Yield all instances of a service, now and after each change."""
        ...


class InProcessRegistry:
    """A registry of one process."""

    def __init__(self) -> None:
        self._instances: dict[tuple[str, str], Instance] = {}
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def register(self, instance: Instance) -> AsyncGenerator[None]:
        """See `Registry.register`."""
        key = (instance.service, instance.id)
        async with self._changed:
            self._instances[key] = instance
            self._changed.notify_all()
        try:
            yield
        finally:
            async with self._changed:
                if self._instances.get(key) is instance:
                    del self._instances[key]
                self._changed.notify_all()

    async def watch(self, service: str) -> AsyncGenerator[frozenset[Instance]]:
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
        return frozenset(instance for instance in self._instances.values() if instance.service == service)


class _Stored(msgspec.Struct, frozen=True):
    """An instance's value in etcd; its key has the rest."""

    target: str
    metadata: dict[str, str] = {}


class EtcdRegistry:
    """The registry of a cluster.

    Args:
        client: Not closed by this.
        prefix: Of all instances; ends with a slash.
        lease_ttl_s: How long an instance that died is still found, in seconds.
    """

    def __init__(self, client: EtcdClient, prefix: str = SERVICES, lease_ttl_s: int = LEASE_TTL_S) -> None:
        self._client = client
        self._prefix = prefix
        self._lease_ttl_s = lease_ttl_s

    @contextlib.asynccontextmanager
    async def register(self, instance: Instance) -> AsyncGenerator[None]:
        """See `Registry.register`."""
        for what, name in (("service", instance.service), ("id", instance.id)):
            if not name or "/" in name:
                raise InvalidArgument(f"instance {instance.id!r}: {what} {name!r} must not be empty nor have a slash")
        lease_id = await self._announce(instance)
        holder = _Holder(lease_id)
        task = asyncio.create_task(self._keep(instance, holder), name=f"registry-{instance.service}")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            try:
                await self._client.revoke_lease(holder.lease_id)
            except MoltbotError as error:  # the lease ends by itself
                log.warning("instance not removed", service=instance.service, id=instance.id, error=error.message)

    async def watch(self, service: str) -> AsyncGenerator[frozenset[Instance]]:
        """See `Registry.watch`."""
        last: frozenset[Instance] | None = None
        prefix = f"{self._prefix}{service}/"
        async with contextlib.aclosing(self._client.watch_prefix(prefix)) as changes:
            async for change in changes:
                now = _instances(service, prefix, change.values)
                if now != last:
                    last = now
                    yield now

    async def _announce(self, instance: Instance) -> int:
        """Enter the instance under a new lease.

        Returns:
            The lease's id.
        """
        lease = await self._client.grant_lease(self._lease_ttl_s)
        value = msgspec.json.encode(_Stored(instance.target, instance.metadata))
        await self._client.put(f"{self._prefix}{instance.service}/{instance.id}", value, lease.id)
        return lease.id

    async def _keep(self, instance: Instance, holder: _Holder) -> None:
        """Keep the lease alive; where it was lost (a long partition, an etcd without its data), take a new one."""
        failures = 0
        while True:
            wait_s = backoff_s(failures - 1, at_most_s=1.0) if failures else self._lease_ttl_s / 3
            await asyncio.sleep(wait_s * random.uniform(0.9, 1.0))  # noqa: S311 - no secret
            try:
                if await self._client.keep_alive(holder.lease_id) <= 0:
                    log.warning("lease lost; registering again", service=instance.service, id=instance.id)
                    holder.lease_id = await self._announce(instance)
                failures = 0
            except MoltbotError as error:
                if failures == 0:
                    log.warning("registration at risk", service=instance.service, id=instance.id, error=error.message)
                failures += 1


@dataclass(slots=True)
class _Holder:
    """The lease that an instance stands under now."""

    lease_id: int


def _instances(service: str, prefix: str, values: Mapping[str, EtcdValue]) -> frozenset[Instance]:
    found: set[Instance] = set()
    for key, value in values.items():
        try:
            stored = msgspec.json.decode(value.value, type=_Stored)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # whoever may write there must not end discovery
            log.warning("not an instance; ignored", key=key, error=str(error))
            continue
        found.add(Instance(service, key.removeprefix(prefix), stored.target, stored.metadata))
    return frozenset(found)

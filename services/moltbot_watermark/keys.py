"""Keys of tenants: which epochs there are, which of them marks, and which verify.

An epoch is a small record in the key-value store, so every instance of the service sees it; a rotation is one atomic
creation of the next number. The keys themselves come from the master key and are stored nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import msgspec
import structlog

from moltbot_mesh.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from moltbot_watermark.unicode_mark import MAX_EPOCH

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_mesh.keyvalue import KeyValueStore
    from moltbot_watermark.master_key import MasterKey, Purpose

log = structlog.get_logger("moltbot.watermark")

_PREFIX = "watermark_epochs/"
_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NUMBER = re.compile(r"[0-9]{1,5}")
_DERIVED_KEPT = 65_536
_CREATE_ATTEMPTS = 16
_RETRY_S = 1.0


class State(Enum):
    """What an epoch may do."""

    ACTIVE = "active"
    """Marks and verifies."""
    RETIRED = "retired"
    """A newer epoch took its place: verifies until its retention ends."""
    REVOKED = "revoked"
    """Ended by hand: verifies until its retention ends."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a tenant's key."""

    tenant: str
    epoch: int
    """From 1."""
    state: State
    create_time_s: float
    """Seconds since the Unix epoch."""
    end_time_s: float | None
    """When it stopped marking."""


class _Stored(msgspec.Struct, frozen=True):
    create_time_s: float
    revoke_time_s: float | None = None


class Keyring:
    """The keys of all tenants.

    Args:
        master: Where keys come from.
        store: Where epochs stand.
        retention_s: How long an epoch verifies after it stopped marking, in seconds.
    """

    def __init__(self, master: MasterKey, store: KeyValueStore, retention_s: float) -> None:
        self._master = master
        self._store = store
        self._retention_s = retention_s
        self._tenants: dict[str, dict[int, _Stored]] = {}
        self._derived: dict[tuple[str, str, int], bytes] = {}
        self._told: dict[str, bytes] = {}
        """Entries of which the log tells that they are damaged."""

    def __repr__(self) -> str:
        return f"Keyring(tenants={len(self._tenants)})"

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """Keep the epochs current while the context is open."""
        self._take(await self._store.list(_PREFIX))

        task = asyncio.create_task(self._watch(), name="watermark-epochs-watch")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._store.watch(_PREFIX)) as changes:
                    async for entries in changes:
                        self._take(entries)
            except Exception:  # whatever it is: without the news, keys that were revoked elsewhere would go on marking
                log.exception("watermark epochs cannot be followed; trying again")
            await asyncio.sleep(_RETRY_S)

    def _take(self, entries: dict[str, bytes]) -> None:
        # Epochs are never deleted and never un-revoked, so what is known here stands, however late the news comes.
        for key, value in entries.items():
            tenant, _, number = key.removeprefix(_PREFIX).rpartition("/")
            epoch = int(number) if _NUMBER.fullmatch(number) else 0
            if not 1 <= epoch <= MAX_EPOCH or not _TENANT.fullmatch(tenant):
                self._tell(key, value, "its key names no tenant and epoch; remove it")
                continue
            try:
                self._note(tenant, epoch, msgspec.json.decode(value, type=_Stored))
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._tell(key, value, "it cannot be read and marks no more; rotate the tenant's key")
                # It may have been revoked, and nobody else may have its number.
                if epoch not in self._tenants.get(tenant, {}):
                    self._note(tenant, epoch, _Stored(time.time(), time.time()))

    def _tell(self, key: str, value: bytes, what: str) -> None:
        if self._told.get(key) != value:  # once, for all entries are read again with each change
            self._told[key] = value
            log.error("watermark epoch in the store is damaged", key=key, what=what)

    def _note(self, tenant: str, epoch: int, stored: _Stored) -> None:
        epochs = self._tenants.setdefault(tenant, {})
        known = epochs.get(epoch)
        if known is None or known.revoke_time_s is None:
            epochs[epoch] = stored

    async def issue(self, tenant: str) -> Epoch:
        """Create the tenant's first epoch, or return the active one.

        Raises:
            InvalidArgument: The tenant's name is not valid.
            FailedPrecondition: The tenant's last epoch was revoked.
        """
        if not _TENANT.fullmatch(tenant):
            raise InvalidArgument(f"tenant {tenant!r}: use 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit")
        if tenant not in self._tenants:
            await self._refresh()
        if tenant not in self._tenants:
            # Of two that issue at once, the loser returns the winner's epoch.
            with contextlib.suppress(AlreadyExists):
                await self._create(tenant, 1)
            await self._refresh()
        return self.active(tenant)

    async def rotate(self, tenant: str) -> Epoch:
        """Start the next epoch; the one before verifies until its retention ends.

        Raises:
            NotFound: The tenant has no key yet.
            ResourceExhausted: The last epoch's number is used.
        """
        for _ in range(_CREATE_ATTEMPTS):
            epoch = max(self._of(tenant)) + 1
            if epoch > MAX_EPOCH:
                raise ResourceExhausted(f"tenant {tenant!r} has used all {MAX_EPOCH} epochs")
            try:
                await self._create(tenant, epoch)
            except AlreadyExists:
                await self._refresh()  # somebody else rotated meanwhile: this rotation comes after theirs
            else:
                return self._shown(tenant, epoch)
        raise ResourceExhausted(
            f"tenant {tenant!r} is being rotated by others all the time; try again", retry_after_s=1.0
        )

    async def revoke(self, tenant: str, epoch: int) -> Epoch:
        """End an epoch; it marks no more. Idempotent.

        Raises:
            NotFound: There is no such epoch.
        """
        epochs = self._of(tenant)
        if epoch not in epochs:
            raise NotFound(f"tenant {tenant!r} has no epoch {epoch}")
        if epochs[epoch].revoke_time_s is None:
            revoked = msgspec.structs.replace(epochs[epoch], revoke_time_s=time.time())
            await self._store.put(f"{_PREFIX}{tenant}/{epoch}", msgspec.json.encode(revoked))
            self._note(tenant, epoch, revoked)
        return self._shown(tenant, epoch)

    def active(self, tenant: str) -> Epoch:
        """The epoch that marks.

        Raises:
            NotFound: The tenant has no key yet.
            FailedPrecondition: The last one was revoked.
        """
        newest = self._shown(tenant, max(self._of(tenant)))
        if newest.state is not State.ACTIVE:
            raise FailedPrecondition(
                f"tenant {tenant!r}: epoch {newest.epoch} was revoked; rotate the key to mark again"
            )
        return newest

    def marks(self, tenant: str, epoch: int) -> bool:
        """Whether a mark of this epoch may be embedded: one reserved just before a rotation still may."""
        stored = self._tenants.get(tenant, {}).get(epoch)
        return stored is not None and stored.revoke_time_s is None

    def verifying(self, tenant: str = "", epoch: int | None = None) -> list[Epoch]:
        """The epochs that verify now.

        Args:
            tenant: Only of this tenant; empty means of all.
            epoch: Only with this number.
        """
        tenants = [tenant] if tenant else self._tenants
        horizon_s = time.time() - self._retention_s
        found: list[Epoch] = []
        for name in tenants:
            numbers = self._tenants.get(name, {})
            for number in numbers if epoch is None else (epoch,):
                if number in numbers:
                    shown = self._shown(name, number)
                    if shown.end_time_s is None or shown.end_time_s >= horizon_s:
                        found.append(shown)
        return found

    def epochs(self, tenant: str = "") -> list[Epoch]:
        """Epochs of one tenant, or of all, by tenant and number."""
        tenants = [tenant] if tenant else sorted(self._tenants)
        return [self._shown(name, epoch) for name in tenants for epoch in sorted(self._tenants.get(name, {}))]

    def key(self, tenant: str, epoch: int, purpose: Purpose) -> bytes:
        """The key of a tenant's epoch for one purpose, 32 bytes.

        Raises:
            NotFound: There is no such epoch.
        """
        if epoch not in self._tenants.get(tenant, {}):
            raise NotFound(f"tenant {tenant!r} has no epoch {epoch}")
        found = self._derived.get((purpose, tenant, epoch))
        if found is None:
            if len(self._derived) >= _DERIVED_KEPT:
                self._derived.clear()
            found = self._master.derive(purpose, tenant, epoch)
            self._derived[purpose, tenant, epoch] = found
        return found

    def _of(self, tenant: str) -> dict[int, _Stored]:
        epochs = self._tenants.get(tenant)
        if not epochs:
            raise NotFound(f"tenant {tenant!r} has no watermark key; IssueKey makes the first")
        return epochs

    async def _create(self, tenant: str, epoch: int) -> None:
        stored = _Stored(time.time())
        await self._store.create(f"{_PREFIX}{tenant}/{epoch}", msgspec.json.encode(stored))
        self._note(tenant, epoch, stored)

    async def _refresh(self) -> None:
        self._take(await self._store.list(_PREFIX))

    def _shown(self, tenant: str, epoch: int) -> Epoch:
        epochs = self._tenants[tenant]
        stored = epochs[epoch]
        if stored.revoke_time_s is not None:
            state, end_time_s = State.REVOKED, stored.revoke_time_s
        elif epoch + 1 in epochs:
            state, end_time_s = State.RETIRED, epochs[epoch + 1].create_time_s
        else:
            state, end_time_s = State.ACTIVE, None
        return Epoch(tenant, epoch, state, stored.create_time_s, end_time_s)

"""Who calls, of people and programs: each has an API key.

An API key is `mb_<id>_<secret>`; only SHA-256 of the secret is stored. The secret has 256 random bits, so a slow hash
would protect nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import structlog

from moltbot_mesh.call import Principal
from moltbot_mesh.errors import InvalidArgument, MoltbotError, NotFound, Unauthenticated
from moltbot_mesh.reconnect import backoff_s

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_mesh.keyvalue import KeyValueStore

log = structlog.get_logger("moltbot.identity")

_KEY_PREFIX = "api_keys/"
_KEY_ID = re.compile(r"[a-z2-7]{1,64}")
_LOOK_INTERVAL_S = 0.2
"""Unknown keys are looked for at most so often, in seconds: whoever guesses must not load the store."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
ADMINISTRATORS = frozenset({"admin", "security", "auditor"})
"""Who runs the system, who looks after keys and people's data, who reads the log: three people, so a key has one of
these roles at most."""
ROLES = ADMINISTRATORS | {"user"}


class _StoredKey(msgspec.Struct, frozen=True):
    tenant: str
    roles: tuple[str, ...]
    secret_sha256: str
    create_time_s: float
    revoke_time_s: float | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it may be shown: never the secret."""

    id: str
    tenant: str
    roles: frozenset[str]
    name: str
    create_time_s: float
    """Seconds since the Unix epoch."""
    revoke_time_s: float | None


class ApiKeys:
    """All API keys, in memory, kept current by a watch.

    Args:
        store: Where their hashes stand.
    """

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store
        self._by_id: dict[str, _StoredKey] = {}
        self._principals: dict[str, Principal] = {}
        self._looking = asyncio.Lock()
        self._looked_s = 0.0

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """Keep the keys current while the context is open."""
        self._take(await self._store.list(_KEY_PREFIX))
        task = asyncio.create_task(self._follow(), name="api-keys-watch")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        """Take each change. A watch that broke begins anew: a key that was revoked meanwhile must not stay valid."""
        failures = 0
        while True:
            try:
                async with contextlib.aclosing(self._store.watch(_KEY_PREFIX)) as changes:
                    async for entries in changes:
                        failures = 0
                        self._take(entries)
            except MoltbotError as error:
                log.error("API keys cannot be followed; trying again", error=error.message)
            await asyncio.sleep(backoff_s(failures))
            failures += 1

    def _take(self, entries: dict[str, bytes]) -> None:
        self._by_id = _decoded(entries)
        self._principals = {
            key_id: Principal("key", key_id, key.tenant, frozenset(key.roles)) for key_id, key in self._by_id.items()
        }

    def _know(self, key_id: str, key: _StoredKey) -> None:
        """What this process itself did holds at once; the watch tells the others."""
        self._by_id[key_id] = key
        self._principals[key_id] = Principal("key", key_id, key.tenant, frozenset(key.roles))

    async def authenticate(self, authorization: str) -> Principal:
        """Find whose key it is, in constant time with respect to the secret.

        Args:
            authorization: The header's value, `Bearer mb_…`.

        Raises:
            Unauthenticated: No key, a key of another form, an unknown or a revoked one.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("no API key: send the header `Authorization: Bearer <key>`")
        parts = token.strip().split("_")
        if len(parts) != 3 or parts[0] != "mb":
            raise Unauthenticated(
                "this is not a key of this mesh (mb_…); `moltbot keys create --tenant NAME` makes one"
            )
        key_id, secret = parts[1], parts[2]
        if key_id not in self._by_id:
            await self._look_for(key_id)
        key = self._by_id.get(key_id)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        if not hmac.compare_digest(digest, key.secret_sha256 if key else "0" * 64) or key is None:
            raise Unauthenticated("the API key is not known")
        if key.revoke_time_s is not None:
            raise Unauthenticated("the API key was revoked", reason="KEY_REVOKED")
        return self._principals[key_id]

    async def _look_for(self, key_id: str) -> None:
        """Learn of a key that was made a moment ago and has not reached the watch; what is known stays as it is."""
        if not _KEY_ID.fullmatch(key_id):
            return
        async with self._looking:  # a new key's first requests may come together: all wait for the one that looks
            if key_id in self._by_id or time.monotonic() - self._looked_s <= _LOOK_INTERVAL_S:
                return
            self._looked_s = time.monotonic()
            value = await self._store.get(_KEY_PREFIX + key_id)
            if value is None or key_id in self._by_id:
                return
            for found, key in _decoded({_KEY_PREFIX + key_id: value}).items():
                self._know(found, key)

    async def create(
        self, tenant: str, roles: frozenset[str] = frozenset({"user"}), name: str = ""
    ) -> tuple[ApiKey, str]:
        """Make a key.

        Returns:
            The key, and its text, which nobody can ever see again.

        Raises:
            InvalidArgument: The tenant's name or a role is not valid.
        """
        if not _NAME.fullmatch(tenant):
            raise InvalidArgument(f"tenant {tenant!r}: use 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit")
        if not roles or roles - ROLES:
            raise InvalidArgument(f"roles {sorted(roles)}: known are {sorted(ROLES)}")
        if len(roles & ADMINISTRATORS) > 1:
            raise InvalidArgument(
                f"roles {sorted(roles & ADMINISTRATORS)}: a key has one of them; make a key for each person"
            )
        key_id = base64.b32encode(secrets.token_bytes(10)).decode().lower()
        secret = secrets.token_hex(32)
        stored = _StoredKey(
            tenant, tuple(sorted(roles)), hashlib.sha256(secret.encode()).hexdigest(), time.time(), None, name
        )
        await self._store.create(_KEY_PREFIX + key_id, msgspec.json.encode(stored))
        self._know(key_id, stored)
        return _shown(key_id, stored), f"mb_{key_id}_{secret}"

    async def list(self) -> list[ApiKey]:
        """All keys, oldest first."""
        stored = _decoded(await self._store.list(_KEY_PREFIX))
        keys = [_shown(key_id, key) for key_id, key in stored.items()]
        return sorted(keys, key=lambda key: key.create_time_s)

    async def revoke(self, key_id: str) -> ApiKey:
        """End a key. Idempotent.

        Raises:
            NotFound: No key has this id.
        """
        value = await self._store.get(_KEY_PREFIX + key_id)
        stored = None if value is None else _decoded({key_id: value}).get(key_id)
        if stored is None:
            raise NotFound(f"no API key has the id {key_id!r}; `moltbot keys list` shows them")
        if stored.revoke_time_s is None:
            stored = msgspec.structs.replace(stored, revoke_time_s=time.time())
            await self._store.put(_KEY_PREFIX + key_id, msgspec.json.encode(stored))
            self._know(key_id, stored)
        return _shown(key_id, stored)


def _decoded(entries: dict[str, bytes]) -> dict[str, _StoredKey]:
    """The keys by id. An entry that is none is left out: it must not shut out, or let in, the others."""
    found: dict[str, _StoredKey] = {}
    for name, value in entries.items():
        try:
            found[name.removeprefix(_KEY_PREFIX)] = msgspec.json.decode(value, type=_StoredKey)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("not an API key; ignored", entry=name, error=type(error).__name__)
    return found


def _shown(key_id: str, key: _StoredKey) -> ApiKey:
    return ApiKey(key_id, key.tenant, frozenset(key.roles), key.name, key.create_time_s, key.revoke_time_s)

"""The second factor of administrators: a one-time code beside the key, a session that ends when it is idle, a lock.

The key proves possession of 256 random bits, the code that of a device enrolled for it. A right code opens a session
for the key and the address that it came from, on all instances; each call keeps it open, and it ends when none comes
for a while, at the latest after a working day. Wrong codes, which only somebody with the key can try, lock the key for
a time.

Source: RFC 6238 (TOTP; SHA-1, 6 digits, 30 s, as authenticator apps take it), section 5.2 for one step of drift and for
a code that is taken once; GB/T 22239-2019, 8.1.4.1 b and d.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from base64 import b32decode
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import msgspec
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.twofactor import InvalidToken
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from moltbot_mesh.errors import DataLoss, NotFound, Unauthenticated
from moltbot_mesh.headers import ONE_TIME_CODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from moltbot_mesh.keyvalue import KeyValueStore

log = structlog.get_logger("moltbot.identity")

PREFIX = "second_factors/"
_ISSUER = "moltbot"
_DIGITS, _STEP_S, _SECRET_BYTES, _NONCE_BYTES = 6, 30, 20, 12
_CODE = re.compile(r"\d{6}")
_NOTED_S = 20.0
"""A session's use is noted at most so often: each note is a write to the store."""


@dataclass(frozen=True, slots=True)
class FactorPolicy:
    """When sessions end and keys are locked."""

    idle_s: float = 900.0
    """A session ends when no call comes for so long."""
    failures: int = 5
    """Wrong codes in a row that lock a key."""
    lock_s: float = 900.0
    """How long."""
    session_s: float = 28_800.0
    """A session ends so long after its code, however much it is used."""


class _State(msgspec.Struct):
    sealed_secret: bytes
    last_step: int = 0
    """Of the last code that was taken."""
    active_s: float = 0.0
    """When the session was last used; 0 if there is none."""
    opened_s: float = 0.0
    """When a code opened it."""
    peer: str = ""
    """The address from which: whoever has stolen the key does not ride along from another."""
    failures: int = 0
    locked_until_s: float = 0.0


class SecondFactors:
    """The devices and sessions of administrators' keys.

    Args:
        store: Where they stand, for all instances.
        secret: Seals the devices' secrets, 32 bytes.
        policy: See `FactorPolicy`.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: KeyValueStore,
        secret: bytes,
        policy: FactorPolicy = FactorPolicy(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._cipher, self._policy, self._clock = store, AESGCM(secret), policy, clock
        self._one_at_a_time = asyncio.Lock()

    async def enrol(self, key_id: str, account: str) -> str:
        """Enrol a device for a key; one that was enrolled before is not valid any more.

        Args:
            key_id: The key's.
            account: What the app shows.

        Returns:
            An `otpauth://` URI, which holds the secret: show it once.
        """
        secret, nonce = os.urandom(_SECRET_BYTES), os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, secret, key_id.encode())
        await self._put(key_id, _State(sealed))
        return _totp(secret).get_provisioning_uri(account, _ISSUER)

    async def forget(self, key_id: str) -> None:
        """Forget a key's device and session. Harmless if it has none."""
        await self._store.delete(PREFIX + key_id)

    async def unlock(self, key_id: str) -> None:
        """End a key's lock.

        Raises:
            NotFound: It has no device.
        """
        async with self._one_at_a_time:
            state = await self._get(key_id)
            if state is None:
                raise NotFound(f"key {key_id} has no second factor")
            state.failures, state.locked_until_s = 0, 0.0
            await self._put(key_id, state)

    async def admit(self, key_id: str, code: str, peer: str) -> None:
        """Let an administrator's call through, by a code or by a session that one opened.

        Args:
            key_id: Of the key that has been recognised.
            code: Of the device; empty if the call has none.
            peer: Address of the client, as Envoy saw it.

        Raises:
            Unauthenticated: `SECOND_FACTOR_REQUIRED`: no device is enrolled, no session is open, or the code is wrong.
                `LOCKED_OUT`: too many were.
        """
        async with self._one_at_a_time:
            state = await self._get(key_id)
            if state is None:
                raise _required(f"key {key_id} has no second factor: `moltbot keys enrol {key_id}` makes one")
            now = self._clock()
            if state.locked_until_s > now:
                raise _locked(key_id, state.locked_until_s - now)
            if code:
                await self._check(key_id, state, code, peer, now)
            elif not self._open(state, peer, now):
                raise _required(
                    f"send your device's code as header `{ONE_TIME_CODE}`; a session ends when it is idle or old, "
                    "and holds for one address"
                )
            elif now - state.active_s > _NOTED_S:
                state.active_s = now
                await self._put(key_id, state)

    def _open(self, state: _State, peer: str, now: float) -> bool:
        return (
            0 <= now - state.active_s < self._policy.idle_s
            and 0 <= now - state.opened_s < self._policy.session_s
            and state.peer == peer
        )

    async def _check(self, key_id: str, state: _State, code: str, peer: str, now: float) -> None:
        step = self._step_of(key_id, state, code, now)
        if step == state.last_step and self._open(state, peer, now):
            return  # the code that opened the session: as good as none
        if step is not None and step > state.last_step:
            state.last_step, state.failures = step, 0
            state.active_s, state.opened_s, state.peer = now, now, peer
            await self._put(key_id, state)
            return
        state.failures += 1
        if state.failures >= self._policy.failures:
            state.failures, state.active_s, state.locked_until_s = 0, 0.0, now + self._policy.lock_s
            log.critical("administrator's key locked", key=key_id, wrong_codes=self._policy.failures)
        await self._put(key_id, state)
        if state.locked_until_s > now:
            raise _locked(key_id, self._policy.lock_s)
        raise _required("the code is wrong, or was used already; wait for the next one")

    def _step_of(self, key_id: str, state: _State, code: str, now: float) -> int | None:
        """The time step of a code; None if it is of no present one."""
        if not _CODE.fullmatch(code):
            return None
        totp = _totp(self._secret(key_id, state))
        present = int(now) // _STEP_S
        for step in (present, present - 1, present + 1):
            try:
                totp.verify(code.encode(), step * _STEP_S)
            except InvalidToken:
                continue
            return step
        return None

    def _secret(self, key_id: str, state: _State) -> bytes:
        sealed = state.sealed_secret
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], key_id.encode())
        except (InvalidTag, ValueError):
            raise DataLoss(f"the second factor of key {key_id} is damaged or of another mesh; enrol it again") from None

    async def _get(self, key_id: str) -> _State | None:
        value = await self._store.get(PREFIX + key_id)
        try:
            return None if value is None else msgspec.json.decode(value, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise DataLoss(f"the second factor of key {key_id} cannot be read; enrol it again") from None

    async def _put(self, key_id: str, state: _State) -> None:
        await self._store.put(PREFIX + key_id, msgspec.json.encode(state))


def second_factors(store: KeyValueStore, mesh_key: bytes, policy: FactorPolicy) -> SecondFactors:
    """The second factors of an installation; all its processes and commands have the same.

    Args:
        store: Of the installation.
        mesh_key: Its key, 32 bytes.
        policy: See `FactorPolicy`.
    """
    return SecondFactors(store, HKDF(SHA256(), 32, None, b"moltbot second factors").derive(mesh_key), policy)


def _totp(secret: bytes) -> TOTP:
    return TOTP(secret, _DIGITS, SHA1(), _STEP_S, enforce_key_length=False)  # noqa: S303 - what apps take; HMAC-SHA-1 stands


def code_at(uri: str, time_s: float) -> str:
    """The code that a device with this `otpauth://` URI shows at a time; for programs that are administrators."""
    text = parse_qs(urlsplit(uri).query)["secret"][0]
    return _totp(b32decode(text + "=" * (-len(text) % 8))).generate(int(time_s)).decode()


def _required(said: str) -> Unauthenticated:
    return Unauthenticated(f"an administrator's call needs a second factor: {said}", reason="SECOND_FACTOR_REQUIRED")


def _locked(key_id: str, seconds: float) -> Unauthenticated:
    return Unauthenticated(
        f"this key is locked after too many wrong codes; wait, or have `moltbot keys unlock {key_id}` run on the "
        "mesh's machine",
        reason="LOCKED_OUT",
        retry_after_s=max(1.0, seconds),
    )

"""The key that all keys of the vault are wrapped with: a file beside it, or a key management service."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moltbot_mesh.durable import create_durably
from moltbot_mesh.errors import DataLoss, InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path

_KEY_BYTES, _NONCE_BYTES = 32, 12


class KeyWrapper(Protocol):
    """Wraps keys with one that never leaves it. A key management service is put behind these two methods."""

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Encrypt a key, bound to what it is for."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Decrypt a key.

        Raises:
            DataLoss: It is damaged, of another master key, or for something else.
        """
        ...


class MasterKey:
    """A wrapper whose key lies in memory.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    @classmethod
    def load(cls, path: Path) -> MasterKey:
        """Read the key, or make one; see `load_secret`."""
        return cls(load_secret(path))

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See `KeyWrapper`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See `KeyWrapper`."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise DataLoss("a key of the vault cannot be unwrapped: it is damaged, or of another master key") from None


def load_secret(path: Path) -> bytes:
    """Read a secret of 32 bytes, or make one if the file is not there (base64, mode 0600).

    Raises:
        InvalidArgument: It does not hold 32 bytes in base64, or others may read it.
    """
    if not path.exists():
        create_durably(path, base64.b64encode(os.urandom(_KEY_BYTES)) + b"\n")
    if path.stat().st_mode & 0o077:
        raise InvalidArgument(f"{path}: others may read this key of the audit service; run `chmod 600 {path}`")
    try:
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise InvalidArgument(f"{path}: not a key (32 bytes in base64); restore it: without it bodies cannot be read")
    return key

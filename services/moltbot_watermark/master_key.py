"""The master key: from it comes a key for each tenant, epoch and purpose.

Nothing else is secret, and it never leaves this file.

Source: RFC 5869 (HKDF) section 3.2, `info` binds a key to its context.
"""

from __future__ import annotations

import base64
import secrets
import struct
from typing import TYPE_CHECKING, Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from moltbot_mesh import durable
from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path

Purpose = Literal["unicode", "label", "detect", "trace24"]
"""What a key is for: the Unicode mark, labels, or a sampler profile."""


class MasterKey:
    """32 random bytes that all keys come from. Shows nothing of itself.

    Args:
        secret: The bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "MasterKey(…)"

    def __reduce__(self) -> str:
        raise TypeError("a master key is not pickled")

    def derive(self, purpose: str, tenant: str = "", epoch: int = 0) -> bytes:
        """Derive a key.

        Returns:
            32 bytes.
        """
        name, whose = purpose.encode(), tenant.encode()
        info = struct.pack(
            f">16sB{len(name)}sH{len(whose)}sI", b"moltbot mark v1", len(name), name, len(whose), whose, epoch
        )
        return HKDF(SHA256(), 32, salt=None, info=info).derive(self._secret)


def load_master_key(path: Path) -> MasterKey:
    """Read the master key, or make one if the file is not there.

    Raises:
        InvalidArgument: The file does not hold 32 bytes in base64, or others may read it.
    """
    # Of two that start at once, one makes it and both read it.
    if not path.exists():
        durable.create_durably(path, base64.b64encode(secrets.token_bytes(32)) + b"\n")
    if path.stat().st_mode & 0o077:
        raise InvalidArgument(f"{path}: others may read the watermark's master key; run `chmod 600 {path}`")
    try:
        secret = base64.b64decode(path.read_bytes(), validate=False)
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise InvalidArgument(
            f"{path}: not a master key (32 bytes in base64); restore it from a backup, for without it no old mark can "
            "be verified, or remove it to have a new one made"
        )
    return MasterKey(secret)

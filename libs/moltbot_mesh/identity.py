"""Which service calls: it says so by a mesh token. People and programs have an API key (`api_keys`).

A mesh token is `v1.<service>.<expiry>.<mac>`, the MAC made with the mesh key that all services of an installation share
(`mesh.key` in the data directory, or `MOLTBOT_MESH_KEY_FILE`). It is short-lived and says which service calls; for whom
the service acts travels beside it in metadata, and is believed only with a valid token.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from typing import TYPE_CHECKING

from moltbot_mesh.durable import create_durably
from moltbot_mesh.errors import InvalidArgument, Unauthenticated

if TYPE_CHECKING:
    from pathlib import Path

MESH_KEY_FILE = "mesh.key"
_TOKEN_LIFETIME_S = 600
_TOKENS_REMEMBERED = 1024


def load_mesh_key(path: Path) -> bytes:
    """Read the mesh key, or make one if the file is not there.

    Returns:
        32 bytes.

    Raises:
        InvalidArgument: It does not hold 32 bytes in base64, others may read it, or it can be neither read nor made.
    """
    try:
        if not path.exists():
            # Services that start at the same moment must not each make one of their own.
            create_durably(path, base64.b64encode(secrets.token_bytes(32)) + b"\n")
        if path.is_dir():
            raise InvalidArgument(f"{path}: a directory; `mesh_key_file` names the file that holds the mesh key")
        if path.stat().st_mode & 0o077:
            raise InvalidArgument(f"{path}: others may read the mesh key; run `chmod 600 {path}`")
        text = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(
            f"{path}: the mesh key can be neither read nor made: {error.strerror}; all services need the same one, "
            "which `moltbot init` makes (`mesh_key_file`)"
        ) from None
    try:
        key = base64.b64decode(text, validate=False)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InvalidArgument(f"{path}: not a mesh key (32 bytes in base64); remove it to have a new one made")
    return key


class MeshIdentity:
    """Makes this service's tokens and checks those of others.

    Args:
        key: The mesh key, 32 bytes.
        service: The name in this side's tokens.
    """

    def __init__(self, key: bytes, service: str) -> None:
        self._key = key
        self._service = service
        self._token = ""
        self._token_renew_s = 0.0
        self._verified: dict[str, tuple[str, float]] = {}

    def __repr__(self) -> str:
        return f"MeshIdentity(service={self._service!r})"

    def token(self) -> str:
        """A token that is valid for at least half its lifetime."""
        now = time.time()
        if now >= self._token_renew_s:
            body = f"v1.{self._service}.{int(now) + _TOKEN_LIFETIME_S}"
            self._token = f"{body}.{self._mac(body)}"
            self._token_renew_s = now + _TOKEN_LIFETIME_S / 2
        return self._token

    def verify(self, token: str) -> str:
        """Check a token.

        Returns:
            The service that made it.

        Raises:
            Unauthenticated: It is malformed, forged or too old.
        """
        now = time.time()
        known = self._verified.get(token)
        if known is not None and known[1] > now:
            return known[0]
        body, _, mac = token.rpartition(".")
        parts = body.split(".")
        if len(parts) != 3 or parts[0] != "v1" or not hmac.compare_digest(mac.encode(), self._mac(body).encode()):
            raise Unauthenticated("the mesh token is not valid; do the services share one mesh key?")
        expiry_s = float(parts[2])
        if expiry_s <= now:
            raise Unauthenticated("the mesh token has expired; are the clocks of the machines in step?")
        if len(self._verified) >= _TOKENS_REMEMBERED:
            self._verified.clear()
        self._verified[token] = (parts[1], expiry_s)
        return parts[1]

    def _mac(self, body: str) -> str:
        digest = hmac.digest(self._key, b"moltbot mesh token\0" + body.encode(), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

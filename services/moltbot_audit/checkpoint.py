"""Signed checkpoints: what the log vouches for, in a form that witnesses and other logs' tools read.

Source: C2SP tlog-checkpoint (https://c2sp.org/tlog-checkpoint), signed-note (https://c2sp.org/signed-note); RFC 8032.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moltbot_mesh.durable import create_durably
from moltbot_mesh.errors import DataLoss, InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path

_ED25519 = b"\x01"
_DASH = "\N{EM DASH}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head."""

    origin: str
    size: int
    root: bytes

    @property
    def body(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def _key_id(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


class Signer:
    """Signs checkpoints with the log's key.

    Args:
        key: The private key.
        origin: The log's name, which is also the key's.
    """

    def __init__(self, key: Ed25519PrivateKey, origin: str) -> None:
        self._key = key
        self.origin = origin
        self._public = key.public_key().public_bytes_raw()

    @classmethod
    def load(cls, path: Path, origin: str) -> Signer:
        """Read the key, or make one if the file is not there (PEM, mode 0600).

        Raises:
            InvalidArgument: The file is not an Ed25519 key, or others may read it.
        """
        if not path.exists():
            pem = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            create_durably(path, pem)
        if path.stat().st_mode & 0o077:
            raise InvalidArgument(f"{path}: others may read the audit key; run `chmod 600 {path}`")
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except ValueError:
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidArgument(f"{path}: not an Ed25519 private key in PEM")
        return cls(key, origin)

    @property
    def verifier_key(self) -> str:
        """The public key as a C2SP verifier key: `<name>+<key id>+<base64>`."""
        encoded = base64.b64encode(_ED25519 + self._public).decode()
        return f"{self.origin}+{_key_id(self.origin, self._public).hex()}+{encoded}"

    def sign(self, size: int, root: bytes) -> str:
        """A signed note of a tree head."""
        return self.sign_text(Checkpoint(self.origin, size, root).body)

    def sign_text(self, body: str) -> str:
        """A signed note of any text that begins with the origin and ends with a line feed."""
        signature = _key_id(self.origin, self._public) + self._key.sign(body.encode())
        return f"{body}\n{_DASH} {self.origin} {base64.b64encode(signature).decode()}\n"


def parse(note: str) -> Checkpoint:
    """Read a checkpoint without checking its signature.

    Raises:
        DataLoss: It is not one.
    """
    lines = note.split("\n")
    try:
        return Checkpoint(lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True))
    except (IndexError, ValueError):
        raise DataLoss("the checkpoint is not a C2SP checkpoint") from None


def verify(note: str, verifier_key: str) -> Checkpoint:
    """Read a checkpoint and check its signature.

    Raises:
        DataLoss: It is not a checkpoint of this key.
    """
    verify_text(note, verifier_key)
    return parse(note)


def verify_text(note: str, verifier_key: str) -> str:
    """Check the signature of a note.

    Returns:
        Its text.

    Raises:
        DataLoss: It carries no valid signature of this key.
        InvalidArgument: The key is not a C2SP verifier key of type Ed25519.
    """
    try:
        name, key_id, encoded = verifier_key.strip().split("+", 2)
        public = base64.b64decode(encoded, validate=True)
        key = Ed25519PublicKey.from_public_bytes(public[1:])
    except ValueError:
        raise InvalidArgument("the verifier key must read <name>+<key id>+<base64>") from None
    if public[:1] != _ED25519 or _key_id(name, public[1:]).hex() != key_id:
        raise InvalidArgument("the verifier key's id is not that of an Ed25519 key with this name")
    body, _, signatures = note.partition("\n\n")
    for line in signatures.splitlines():
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != _DASH or parts[1] != name:
            continue
        try:
            signature = base64.b64decode(parts[2], validate=True)
            if signature[:4].hex() == key_id:
                key.verify(signature[4:], (body + "\n").encode())
                return body + "\n"
        except (ValueError, InvalidSignature):
            break
    raise DataLoss(f"the note carries no valid signature of {name}")

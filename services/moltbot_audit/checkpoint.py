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
    from collections.abc import Callable, Sequence
    from pathlib import Path

_ED25519, _COSIGNATURE = b"\x01", b"\x04"
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


def _key_id(name: str, public: bytes, kind: bytes = _ED25519) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + kind + public).digest()[:4]


class Signer:
    """Signs checkpoints with the log's key.

    Args:
        key: The private key.
        origin: The log's name, which is also the key's.
        beside: Make further signature lines, from a checkpoint's body.
    """

    def __init__(self, key: Ed25519PrivateKey, origin: str, beside: Sequence[Callable[[str], str]] = ()) -> None:
        self._key = key
        self._beside = tuple(beside)
        self.origin = origin
        self._public = key.public_key().public_bytes_raw()

    @classmethod
    def load(cls, path: Path, origin: str, beside: Sequence[Callable[[str], str]] = ()) -> Signer:
        """Read the key, or make one if the file is not there (PEM, mode 0600).

        Raises:
            InvalidArgument: The file is not an Ed25519 key, or others may read it.
        """
        return cls(load_key(path), origin, beside)

    @property
    def verifier_key(self) -> str:
        """The public key as a C2SP verifier key: `<name>+<key id>+<base64>`."""
        encoded = base64.b64encode(_ED25519 + self._public).decode()
        return f"{self.origin}+{_key_id(self.origin, self._public).hex()}+{encoded}"

    def sign(self, size: int, root: bytes) -> str:
        """A signed note of a tree head."""
        body = Checkpoint(self.origin, size, root).body
        return self.sign_text(body) + "".join(line(body) for line in self._beside)

    def sign_text(self, body: str) -> str:
        """A signed note of any text that begins with the origin and ends with a line feed."""
        signature = _key_id(self.origin, self._public) + self._key.sign(body.encode())
        return f"{body}\n{_DASH} {self.origin} {base64.b64encode(signature).decode()}\n"


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a signing key, or make one if the file is not there (PEM, mode 0600).

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
    return key


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


def _read_key(verifier_key: str, kind: bytes) -> tuple[str, bytes, Ed25519PublicKey]:
    """Name, id and key of a C2SP verifier key.

    Raises:
        InvalidArgument: It is not one of this kind.
    """
    try:
        name, key_id, encoded = verifier_key.strip().split("+", 2)
        public = base64.b64decode(encoded, validate=True)
        key = Ed25519PublicKey.from_public_bytes(public[1:])
    except ValueError:
        raise InvalidArgument("the verifier key must read <name>+<key id>+<base64>") from None
    if public[:1] != kind or _key_id(name, public[1:], kind).hex() != key_id:
        raise InvalidArgument(f"the verifier key's id is not that of an Ed25519 key of type {kind[0]} with this name")
    return name, bytes.fromhex(key_id), key


def verify_text(note: str, verifier_key: str) -> str:
    """Check the signature of a note.

    Returns:
        Its text.

    Raises:
        DataLoss: It carries no valid signature of this key.
        InvalidArgument: The key is not a C2SP verifier key of type Ed25519.
    """
    name, key_id, key = _read_key(verifier_key, _ED25519)
    body, _, signatures = note.partition("\n\n")
    for line in signatures.splitlines():
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != _DASH or parts[1] != name:
            continue
        try:
            signature = base64.b64decode(parts[2], validate=True)
            if signature[:4] == key_id:
                key.verify(signature[4:], (body + "\n").encode())
                return body + "\n"
        except (ValueError, InvalidSignature):
            break
    raise DataLoss(f"the note carries no valid signature of {name}")


class Cosigner:
    """Signs as a witness: this was the log's largest consistent head that it saw, at this time.

    Args:
        key: The private key, which no log uses.
        name: The witness's.

    Source: C2SP tlog-cosignature (https://c2sp.org/tlog-cosignature), Ed25519.
    """

    def __init__(self, key: Ed25519PrivateKey, name: str) -> None:
        self._key = key
        self.name = name
        self._public = key.public_key().public_bytes_raw()

    @property
    def verifier_key(self) -> str:
        """The public key as a C2SP verifier key."""
        encoded = base64.b64encode(_COSIGNATURE + self._public).decode()
        return f"{self.name}+{_key_id(self.name, self._public, _COSIGNATURE).hex()}+{encoded}"

    def cosign(self, body: str, time_s: int) -> str:
        """A signature line, with its line feed, for a checkpoint's body."""
        signature = self._key.sign(_cosigned(body, time_s))
        raw = _key_id(self.name, self._public, _COSIGNATURE) + time_s.to_bytes(8) + signature
        return f"{_DASH} {self.name} {base64.b64encode(raw).decode()}\n"


def valid_cosignatures(lines: str, body: str, verifier_key: str) -> list[str]:
    """Those of some signature lines that are valid cosignatures of a checkpoint by a witness.

    Raises:
        InvalidArgument: The key is not a witness's.
    """
    name, key_id, key = _read_key(verifier_key, _COSIGNATURE)
    found: list[str] = []
    for line in lines.splitlines():
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != _DASH or parts[1] != name:
            continue
        try:
            raw = base64.b64decode(parts[2], validate=True)
            if raw[:4] == key_id and len(raw) == 4 + 8 + 64:
                key.verify(raw[12:], _cosigned(body, int.from_bytes(raw[4:12])))
                found.append(line + "\n")
        except (ValueError, InvalidSignature):
            continue
    return found


def _cosigned(body: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{body}".encode()

"""Co-signs checkpoints with SM2, for those whose rules ask for it.

The tree stays SHA-256 and the log's own signature Ed25519; an SM2 line stands beside it in the note, as signed notes
allow. Needs the extra `gm`, whose arithmetic is plain Python: some 10 ms a signature, in a time that depends on the
key, so nobody else may measure on the machine that signs.

Source: GB/T 32918.2-2016 (SM2 signatures), GB/T 32905-2016 (SM3), GB/T 35276-2017 (the identity 1234567812345678);
C2SP signed-note, signature type 0xff.
"""

from __future__ import annotations

import base64
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from moltbot_mesh.durable import create_durably
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path

KIND = b"\xffsm2-sm3"
"""Type and identifier before the public key (04 and both coordinates) in a verifier key."""
_IDENTITY = b"1234567812345678"
_SECRET_BYTES = 32


class Sm2Cosigner:
    """Signs a note's text.

    Args:
        secret: The private key, 32 bytes.
        name: Of the key: the log's origin.

    Raises:
        FailedPrecondition: The extra `gm` is not installed.
    """

    def __init__(self, secret: bytes, name: str) -> None:
        sm2: Any = _library().SM2
        self.name = name
        self._public = bytes(sm2(secret).generate_pk(secret))
        self._signer: Any = sm2(secret, _IDENTITY, self._public)
        self._id = sha256(name.encode() + b"\n" + KIND + self._public).digest()[:4]

    @classmethod
    def load(cls, path: Path, name: str) -> Sm2Cosigner:
        """Read the key, or make one if the file is not there (hexadecimal, mode 0600).

        Raises:
            InvalidArgument: It is not a key, or others may read it.
            FailedPrecondition: The extra `gm` is not installed.
        """
        if not path.exists():
            secret, _ = _library().SM2().generate_keypair()
            create_durably(path, _whole(secret).hex().encode() + b"\n")
        if path.stat().st_mode & 0o077:
            raise InvalidArgument(f"{path}: others may read the SM2 key; run `chmod 600 {path}`")
        try:
            secret = bytes.fromhex(path.read_text("ascii").strip())
        except ValueError:
            secret = b""
        if len(secret) != _SECRET_BYTES:
            raise InvalidArgument(f"{path}: not an SM2 key (32 bytes in hexadecimal)")
        return cls(secret, name)

    @property
    def verifier_key(self) -> str:
        """The public key in the form of a C2SP verifier key."""
        return f"{self.name}+{self._id.hex()}+{base64.b64encode(KIND + self._public).decode()}"

    def line(self, body: str) -> str:
        """A signature line, with its line feed, for a note's text."""
        signature = b"".join(map(_whole, self._signer.sign(body.encode())))
        return f"\N{EM DASH} {self.name} {base64.b64encode(self._id + signature).decode()}\n"


def _whole(number: bytes) -> bytes:
    """A number as 32 bytes: the library leaves out zeros at its beginning, one time in 256."""
    return bytes(number).rjust(_SECRET_BYTES, b"\0")


def _library() -> Any:
    try:
        import gmalg  # noqa: PLC0415 - an extra
    except ImportError:
        raise FailedPrecondition("audit.gm needs the extra gm: pip install 'moltbot[gm]'") from None
    return gmalg

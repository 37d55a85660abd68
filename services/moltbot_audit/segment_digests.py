"""SM3 digests of sealed segments, each in a file beside its segment and, by whoever asks for them, in the log itself.

Source: GB/T 32905-2016 (SM3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes

from moltbot_audit.segment import segments
from moltbot_mesh.durable import replace_durably

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".sm3"
_CHUNK_BYTES = 1 << 20


def sm3(path: Path) -> str:
    """The SM3 digest of a file, in hexadecimal."""
    digest = hashes.Hash(hashes.SM3())
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.finalize().hex()


def undigested(directory: Path) -> list[Path]:
    """Sealed segments without a digest, oldest first."""
    sealed = [path for _, path in segments(directory)[:-1]]
    return [path for path in sealed if not path.with_name(path.name + SUFFIX).exists()]


def write_digest(path: Path, digest: str) -> None:
    """Write a segment's digest beside it, in the form of `openssl dgst -sm3 -r`."""
    replace_durably(path.with_name(path.name + SUFFIX), f"{digest} *{path.name}\n".encode())


def digest_problem(path: Path) -> str:
    """What is wrong with a segment by its digest; empty if nothing is, or it has none."""
    file = path.with_name(path.name + SUFFIX)
    if not file.exists():
        return ""
    said = file.read_text("ascii", "replace").split(" ")[0].strip()
    return "" if said == sm3(path) else f"{path.name}: its SM3 digest is not the one that was taken when it was sealed"

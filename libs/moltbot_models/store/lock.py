"""The hashes of a model's files, in the format of `sha256sum`: `sha256sum -c` checks them without this project."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LINE = re.compile(r"^([0-9a-f]{64}) [ *](.+)$")
_CHUNK_BYTES = 8 << 20
_MAX_FILES = 4096

Progress = Callable[[str, int, int], None]
"""Called with what is read, bytes done and bytes in all."""


def model_files(directory: Path) -> list[Path]:
    """The files of a model directory, in order: all but hidden ones and other weights formats' folders.

    Raises:
        InvalidArgument: There are too many: it is no model directory.
    """
    found: list[Path] = []
    for file in sorted(directory.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            found.append(file)
        elif file.is_dir() and file.name[:1].isdigit():  # sentence-transformers: 1_Pooling/config.json
            found += sorted(inner for inner in file.iterdir() if inner.is_file())
        if len(found) > _MAX_FILES:
            raise InvalidArgument(f"{directory}: more than {_MAX_FILES} files; name the model's own directory")
    return found


def hash_files(directory: Path, progress: Progress | None = None) -> dict[str, str]:
    """SHA-256 of each file by its path within the directory.

    Args:
        directory: A model directory.
        progress: Told how far the reading is.
    """
    files = model_files(directory)
    total, before = sum(file.stat().st_size for file in files), 0
    found: dict[str, str] = {}

    def told(name: str, done: int, _all: int) -> None:
        if progress:
            progress(name, before + done, total)

    for file in files:
        found[file.relative_to(directory).as_posix()] = hash_file(file, told)
        before += file.stat().st_size
    return found


def hash_file(file: Path, progress: Progress | None = None) -> str:
    """SHA-256 of one file, in hexadecimal.

    Raises:
        InvalidArgument: It cannot be read.
    """
    try:
        total, done, digest = file.stat().st_size, 0, hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                if progress:
                    progress(file.name, done, total)
    except OSError as error:
        raise InvalidArgument(f"{file}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def lock_text(hashes: Mapping[str, str]) -> str:
    """The lock file's text."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))


def read_lock(file: Path) -> dict[str, str]:
    """Read a lock file.

    Raises:
        InvalidArgument: It is not there, or a line is not `sha256sum`'s.
    """
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{file}: cannot be read ({error}); add the model again") from None
    hashes: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.match(line)
        if match is None:
            raise InvalidArgument(f"{file}:{number}: not a line of sha256sum; add the model again")
        hashes[match[2]] = match[1]
    return hashes


def differences(locked: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What is not as it was locked, a sentence for each file; empty if nothing."""
    said = [f"{name}: is gone" for name in sorted(locked.keys() - found.keys())]
    said += [f"{name}: was not there when the model was added" for name in sorted(found.keys() - locked.keys())]
    return said + [
        f"{name}: has changed (sha256 {found[name][:12]}…, locked {locked[name][:12]}…)"
        for name in sorted(locked.keys() & found.keys())
        if locked[name] != found[name]
    ]


def digest_of(hashes: Mapping[str, str]) -> str:
    """One digest for all files: SHA-256 of the lock file's text."""
    return hashlib.sha256(lock_text(hashes).encode()).hexdigest()

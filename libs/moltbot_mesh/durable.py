"""Small files and directories that outlive a power failure.

Source: fsync(2): a new name is durable only when its directory was synced too.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: Path) -> None:
    """Make a directory and those above it (mode 0700), durably; those that are there stay as they are.

    Raises:
        OSError: The disk is full or fails, or something else stands there.
    """
    if not path.is_dir():
        make_directories(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync(path.parent)


def replace_durably(path: Path, data: bytes) -> None:
    """Replace a file (mode 0600), for one writer at a time.

    After a power failure it has the old content or the new, and the new one if this had returned.

    Raises:
        OSError: The disk is full or fails; the old content stands.
    """
    temporary = path.with_name(path.name + ".tmp")
    _write(temporary, data, os.O_TRUNC)
    temporary.replace(path)
    sync(path.parent)


def create_durably(path: Path, data: bytes) -> bool:
    """Make a file (mode 0600) that is never seen half-written, unless one is there.

    Returns:
        False if one is there; it stays as it is.

    Raises:
        OSError: The disk is full or fails.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        _write(temporary, data, os.O_EXCL)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)  # unlike a rename, it fails where something stands
            sync(path.parent)
            return True
        return False
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, data: bytes, how: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

"""What the log asks of a file system; a test puts one that fails in its place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from moltbot_mesh.durable import sync

if TYPE_CHECKING:
    from pathlib import Path


class Disk:
    """The operations of the operating system. All raise OSError."""

    def create(self, path: Path) -> int:
        """Make a file (mode 0600) that is not there; its descriptor."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

    def open(self, path: Path) -> int:
        """Open a file; its descriptor."""
        return os.open(path, os.O_RDWR)

    def allocate(self, file: int, size: int) -> None:
        """Have room for a file of `size` bytes; what is new reads as zeros."""
        os.posix_fallocate(file, 0, size)

    def write(self, file: int, data: memoryview | bytes, offset: int) -> int:
        """Write at an offset; how many bytes were, which may be fewer."""
        return os.pwrite(file, data, offset)

    def sync(self, file: int) -> None:
        """Wait until what was written is on disk."""
        os.fdatasync(file)

    def sync_names(self, directory: Path) -> None:
        """Wait until the names in a directory are on disk."""
        sync(directory)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

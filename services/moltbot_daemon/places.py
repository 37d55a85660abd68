"""Where things stand on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from moltbot_daemon.settings import Settings

_SOCKET_PATH_BYTES = 90
"""Room for a Unix socket's path (108 bytes on Linux) with a file name of ours."""


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of one installation."""

    data_dir: Path
    cache_dir: Path
    run_dir: Path
    """Sockets and generated files; emptied by nothing, rewritten at each start."""
    mesh_key_file: Path

    @property
    def mesh_socket(self) -> Path:
        """The daemon's gRPC socket."""
        return self.run_dir / "mesh.sock"

    @property
    def http_socket(self) -> Path:
        """The daemon's HTTP/1.1 socket."""
        return self.run_dir / "http.sock"

    @property
    def access_log(self) -> Path:
        """Envoy's."""
        return self.run_dir / "access.log"

    @property
    def models_dir(self) -> Path:
        """What `moltbot model add` wrote: a folder a model."""
        return self.data_dir / "models"

    @property
    def store_dir(self) -> Path:
        """Small configuration: API keys."""
        return self.data_dir / "store"


def places(settings: Settings) -> Places:
    """Find the directories of an installation; nothing is made."""
    data_dir = Path(os.path.abspath(settings.data_dir.expanduser()))  # noqa: PTH100 - links stay links
    run_dir = data_dir / "run"
    if len(os.fsencode(run_dir)) > _SOCKET_PATH_BYTES:
        digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
        run_dir = Path(tempfile.gettempdir()) / f"moltbot-{os.getuid()}-{digest}"
    key_file = settings.mesh_key_file.expanduser() if settings.mesh_key_file else data_dir / "mesh.key"
    return Places(data_dir, settings.cache_dir.expanduser(), run_dir, key_file)


def make(found: Places) -> None:
    """Make the directories, for their owner alone.

    Raises:
        InvalidArgument: One cannot be made, or belongs to somebody else.
    """
    for directory in (found.data_dir, found.run_dir, found.cache_dir):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Beside the data directory the name can be guessed: a link that somebody put there is not followed.
            planted = directory == found.run_dir and directory.is_symlink()
            if planted or directory.stat().st_uid != os.getuid():
                raise InvalidArgument(f"{directory} belongs to another user; choose another --data-dir")
            if directory != found.cache_dir:
                directory.chmod(0o700)
        except OSError as error:
            raise InvalidArgument(f"{directory}: cannot be made: {error.strerror}; choose another --data-dir") from None

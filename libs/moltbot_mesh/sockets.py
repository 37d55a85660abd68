"""Unix sockets that servers listen on: nobody else's, and none left over."""

from __future__ import annotations

import contextlib
from pathlib import Path

from moltbot_mesh.errors import FailedPrecondition

_UNIX = "unix:"


def prepare_socket(target: str) -> str:
    """Make room for a socket; does nothing for other addresses.

    Args:
        target: `unix:/path` or `host:port`.

    Returns:
        The path, or `target` as it is.
    """
    if not target.startswith(_UNIX):
        return target
    path = Path(target.removeprefix(_UNIX))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # left by a process that was killed
    return str(path)


def secure_socket(target: str) -> None:
    """Leave a bound socket to its owner alone; does nothing for other addresses."""
    if target.startswith(_UNIX):
        Path(target.removeprefix(_UNIX)).chmod(0o600)


def bind_problem(target: str) -> FailedPrecondition:
    """Why an address cannot be listened on."""
    return FailedPrecondition(f"cannot listen on {target}: the address is taken or not on this machine")

"""Which producer numbers events: an id that stays with its directory, and an epoch that grows with each start.

Together with a counter they make a gap provable.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from moltbot_mesh import durable
from moltbot_mesh.errors import DataLoss

if TYPE_CHECKING:
    from pathlib import Path

_ID_BYTES = 16


def start_epoch(path: Path) -> tuple[bytes, int]:
    """Begin the next epoch of a producer; its first one makes its id.

    Args:
        path: The file that holds both.

    Returns:
        The id, 16 bytes, and the epoch, from 1.

    Raises:
        DataLoss: The file is damaged.
        OSError: It can be neither read nor written.
    """
    if path.exists():
        identity, _, epoch = path.read_text().strip().partition(" ")
        if len(identity) != 2 * _ID_BYTES or not epoch.isdigit():
            raise DataLoss(f"{path}: not a producer's identity; remove it when the spill beside it is empty")
    else:
        identity, epoch = os.urandom(_ID_BYTES).hex(), "0"
    durable.replace_durably(path, f"{identity} {int(epoch) + 1}\n".encode())
    return bytes.fromhex(identity), int(epoch) + 1

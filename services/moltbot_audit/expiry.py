"""What may go when it is old: sealed segments. Tiles and checkpoints stay, so every proof stays valid.

The horizon — the first record that must still be there — is signed before anything goes: records that are missing
behind it were removed by somebody else.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from moltbot_audit.checkpoint import verify_text
from moltbot_audit.segment import segments
from moltbot_audit.segment_digests import SUFFIX
from moltbot_audit.tiles import TILE_HASHES, tile_path
from moltbot_mesh.durable import replace_durably, sync
from moltbot_mesh.errors import DataLoss

if TYPE_CHECKING:
    from pathlib import Path

    from moltbot_audit.checkpoint import Signer

HORIZON_FILE = "horizon"


def read_horizon(directory: Path, verifier_key: str) -> int:
    """The first record that must still be there.

    Raises:
        DataLoss: The horizon is not signed by this key.
    """
    path = directory / HORIZON_FILE
    if not path.exists():
        return 0
    _, kind, sequence, *_ = [*verify_text(path.read_text(), verifier_key).split("\n"), "", ""]
    if kind != "horizon" or not sequence.isdigit():
        raise DataLoss(f"{path.name}: not a signed horizon")
    return int(sequence)


def expiring(directory: Path, covered: int, before_ns: int) -> tuple[int, list[Path]]:
    """What `expire` would do: the horizon, and the segments that would go, oldest first."""
    found = segments(directory / "segments")
    old: list[Path] = []
    horizon = found[0][0]
    for (_, path), (following, _) in itertools.pairwise(found):
        if following > covered // TILE_HASHES * TILE_HASHES or path.stat().st_mtime_ns >= before_ns:
            break
        old.append(path)
        horizon = following
    return horizon, old


def expire(directory: Path, signer: Signer, covered: int, before_ns: int) -> tuple[int, int]:
    """Remove sealed segments that were last written before a time.

    Args:
        directory: The log's.
        signer: Signs the horizon.
        covered: Records under the newest checkpoint; only what complete tiles hold may go.
        before_ns: Nanoseconds since 1970, by this machine's clock.

    Returns:
        The horizon, and how many records went.
    """
    first = segments(directory / "segments")[0][0]
    horizon, old = expiring(directory, covered, before_ns)
    if not old:
        return horizon, 0
    for number in range(first // TILE_HASHES, -(-horizon // TILE_HASHES)):
        sync(directory / tile_path(0, number))
    horizon_note = signer.sign_text(f"{signer.origin}\nhorizon\n{horizon}\n")
    replace_durably(directory / HORIZON_FILE, horizon_note.encode())
    for path in old:
        path.unlink()
        path.with_name(path.name + SUFFIX).unlink(missing_ok=True)
    return horizon, horizon - first

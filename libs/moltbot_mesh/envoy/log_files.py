"""Keeps Envoy's access log within bounds: it is put aside when it is large, and the oldest goes.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin (`POST /reopen_logs`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from moltbot_mesh.errors import MoltbotError

if TYPE_CHECKING:
    from pathlib import Path

    from moltbot_mesh.envoy.admin import EnvoyAdmin

log = structlog.get_logger("moltbot.envoy")

_LOOK_S = 10.0


def set_aside(path: Path, keep: int) -> None:
    """Rename a log to `<name>.1`, the former `.1` to `.2` and so on; what was `<name>.<keep>` is gone.

    Args:
        path: Of the log; it is not there afterwards.
        keep: How many former ones stay; 0 keeps none.
    """
    path.with_name(f"{path.name}.{keep}").unlink(missing_ok=True)
    for number in range(keep - 1, 0, -1):
        former = path.with_name(f"{path.name}.{number}")
        if former.exists():
            former.replace(path.with_name(f"{path.name}.{number + 1}"))
    if keep:
        path.replace(path.with_name(f"{path.name}.1"))
    else:
        path.unlink()


async def keep_within(path: Path, limit_bytes: int, keep: int, admin: EnvoyAdmin, look_s: float = _LOOK_S) -> None:
    """Put the log aside whenever it is larger than `limit_bytes`; runs until it is cancelled.

    Args:
        path: Of the log.
        limit_bytes: Largest size; a busy Envoy writes some more until the next look.
        keep: How many former ones stay.
        admin: Of the Envoy that writes it, and then opens it anew.
        look_s: Between two looks.
    """
    reopen = False
    while True:
        await asyncio.sleep(look_s)
        try:
            if await asyncio.to_thread(_is_larger, path, limit_bytes):
                await asyncio.to_thread(set_aside, path, keep)
                reopen = True
            if reopen:
                await admin.reopen_logs()
                reopen = False
        except (MoltbotError, OSError) as error:
            log.warning("access log not put aside; trying again", path=str(path), error=str(error))


def _is_larger(path: Path, limit_bytes: int) -> bool:
    try:
        return path.stat().st_size > limit_bytes
    except FileNotFoundError:
        return False

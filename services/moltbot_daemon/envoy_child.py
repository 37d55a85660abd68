"""Envoy as a child of the command that runs it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog

from moltbot_mesh.supervisor import Supervisor

if TYPE_CHECKING:
    from moltbot_mesh.envoy.process import EnvoyProcess

log = structlog.get_logger("moltbot.daemon")


def envoy_supervisor(envoy: EnvoyProcess, name: str = "envoy") -> Supervisor:
    """Keeps a prepared Envoy running."""
    env = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TZ", "TMPDIR")}

    async def drained() -> None:
        left = await envoy.drain()
        if left:
            log.warning("requests cut off at the end of the drain", child=name, requests=left)

    return Supervisor(name, envoy.argv, env, envoy.ready, alive=envoy.admin.alive, before_stop=drained, grace_s=5.0)

"""Calls to the daemon of this machine, over its socket, as the command line."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from moltbot_mesh.call import Call, Principal, enter_call
from moltbot_mesh.channel import MeshChannel, as_channel, open_channel
from moltbot_mesh.errors import Unavailable
from moltbot_mesh.identity import MeshIdentity, load_mesh_key

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import grpc.aio

    from moltbot_daemon.places import Places


@contextlib.asynccontextmanager
async def daemon_channel(places: Places, tenant: str = "default") -> AsyncGenerator[grpc.aio.Channel]:
    """A channel to the daemon on this data directory, acting for a tenant. Only its owner can read the mesh key.

    Raises:
        Unavailable: No daemon runs.
    """
    if not places.mesh_socket.exists():
        raise Unavailable(f"no daemon runs on {places.data_dir}; start one with `moltbot daemon`")
    inner = open_channel(f"unix:{places.mesh_socket}")
    enter_call(Call("moltbot", Principal("service", "cli", tenant)))
    try:
        yield as_channel(MeshChannel(inner, MeshIdentity(load_mesh_key(places.mesh_key_file), "cli"), "daemon"))
    finally:
        await inner.close()

"""Calls to the running mesh as the command line: over the daemon's socket, or to services found through etcd."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from moltbot_mesh.call import Call, Principal, enter_call
from moltbot_mesh.channel import MeshChannel, as_channel, open_channel
from moltbot_mesh.errors import Unavailable
from moltbot_mesh.identity import MeshIdentity, load_mesh_key

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    import grpc.aio

    from moltbot_daemon.commands.shell import Shell


_CONNECT_S = 2.0


def listens(path: Path) -> bool:
    """Whether somebody listens on a Unix socket; what a killed daemon left behind does not."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_S)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True  # its queue is full
        except OSError:
            return False
        return True


@contextlib.asynccontextmanager
async def mesh_channel(shell: Shell, service: str, tenant: str = "default") -> AsyncGenerator[grpc.aio.Channel]:
    """A channel to a service of the installation, acting for a tenant. Only its owner can read the mesh key.

    Args:
        shell: The command's call; with `etcd.endpoints`, the service is found there.
        service: Which; the daemon has all of them behind one socket.
        tenant: For whom; empty for none.

    Raises:
        Unavailable: No daemon runs.
    """
    places = shell.places
    enter_call(Call("moltbot", Principal("service", "cli", tenant)))
    async with contextlib.AsyncExitStack() as stack:
        if shell.settings.etcd.endpoints:
            from moltbot_mesh.balancer import BalancedChannel  # noqa: PLC0415 - one node needs no etcd
            from moltbot_mesh.etcd import EtcdClient  # noqa: PLC0415
            from moltbot_mesh.registry import EtcdRegistry  # noqa: PLC0415

            client = EtcdClient(shell.settings.etcd.endpoints)
            stack.push_async_callback(client.close)
            inner = BalancedChannel(EtcdRegistry(client, f"{shell.settings.etcd.prefix}/services/"), service)
        elif listens(places.mesh_socket):
            inner = open_channel(f"unix:{places.mesh_socket}")
        else:
            raise Unavailable(f"no daemon runs on {places.data_dir}; start one with `moltbot daemon`")
        stack.push_async_callback(inner.close)
        yield as_channel(MeshChannel(inner, MeshIdentity(load_mesh_key(places.mesh_key_file), "cli"), service))

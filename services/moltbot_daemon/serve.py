"""`moltbot serve NAME`: one service in one process; the others are found through etcd."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from moltbot_daemon.modules import MODULES
from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.etcd import EtcdClient
from moltbot_mesh.identity import load_mesh_key
from moltbot_mesh.keyvalue import EtcdKeyValueStore
from moltbot_mesh.registry import EtcdRegistry
from moltbot_mesh.runner import Node, running

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_daemon.places import Places
    from moltbot_daemon.settings import Settings
    from moltbot_mesh.runner import Running


@contextlib.asynccontextmanager
async def serving(settings: Settings, places: Places, service: str) -> AsyncGenerator[Running]:
    """Run one service while the context is open.

    Args:
        settings: The configuration; `etcd.endpoints` must be set.
        places: Its directories; they exist.
        service: Which.

    Raises:
        InvalidArgument: There is no such service, or no etcd.
    """
    if service not in MODULES:
        raise InvalidArgument(
            f"no service is named {service!r}; there are: {', '.join((*sorted(MODULES), 'envoy', 'triton'))}"
        )
    if not settings.etcd.endpoints:
        raise InvalidArgument(
            "etcd.endpoints is empty: separate services find each other through etcd; set it in the configuration or "
            "as MOLTBOT_ETCD__ENDPOINTS='[127.0.0.1:2379]', or run `moltbot daemon`"
        )
    listen = settings.listen or "127.0.0.1:0"
    client = EtcdClient(settings.etcd.endpoints)
    try:
        node = Node(
            data_dir=places.data_dir,
            mesh_key=load_mesh_key(places.mesh_key_file),
            store=EtcdKeyValueStore(client, f"{settings.etcd.prefix}/store/"),
            listen=(listen,),
            listen_http=settings.listen_http or f"{listen.rpartition(':')[0]}:0",
            advertise=settings.advertise,
            registry=EtcdRegistry(client, f"{settings.etcd.prefix}/services/"),
            second_factor=settings.security.policy(),
            telemetry=settings.telemetry,
            recording=settings.recording,
            grace_s=settings.envoy.drain_s,
        )
        async with running(MODULES, [service], settings, node) as mesh:
            yield mesh
    finally:
        await client.close()

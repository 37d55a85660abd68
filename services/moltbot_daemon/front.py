"""`moltbot serve envoy`: Envoy in front of separate services; it follows their instances in the registry."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

import structlog

from moltbot_daemon.daemon import bounded_log, descriptor_set
from moltbot_daemon.envoy_child import envoy_supervisor
from moltbot_mesh.envoy.config import EXPOSED, GATEWAY, EnvoyConfig
from moltbot_mesh.envoy.process import ADMIN_SOCKET, EnvoyProcess
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument, MoltbotError
from moltbot_mesh.etcd import EtcdClient
from moltbot_mesh.reconnect import backoff_s
from moltbot_mesh.registry import HTTP, EtcdRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_daemon.places import Places
    from moltbot_daemon.settings import Settings
    from moltbot_mesh.registry import Instance

log = structlog.get_logger("moltbot.front")

_START_S = 60.0
_RETRY_S = 0.5
_CLUSTERS_FILE = "envoy-clusters.json"


class _Endpoints:
    """Where all services are, kept current."""

    def __init__(self) -> None:
        self.targets: dict[str, tuple[str, ...]] = {}
        self.http: tuple[str, ...] = ()
        """Where the gateways listen for HTTP/1.1."""
        self.changed = asyncio.Event()
        self.problem: MoltbotError | None = None
        """Why a service cannot be followed."""

    def complete(self) -> bool:
        return all(self.targets.get(service) for service in EXPOSED)

    async def follow(self, registry: EtcdRegistry, service: str) -> None:
        """Follow a service's instances; one that has none any more keeps its last, which may come back."""
        failures = 0
        while True:
            try:
                async with contextlib.aclosing(registry.watch(service)) as changes:
                    async for instances in changes:
                        failures = 0
                        self._take(service, instances)
            except MoltbotError as error:
                log.error("registry cannot be followed; trying again", service=service, error=error.message)
                self.problem = error
                self.changed.set()
            await asyncio.sleep(backoff_s(failures))
            failures += 1

    def _take(self, service: str, instances: frozenset[Instance]) -> None:
        targets = tuple(sorted(instance.target for instance in instances))
        if targets and targets != self.targets.get(service):
            self.targets[service] = targets
            self.changed.set()
        http = tuple(sorted(instance.metadata[HTTP] for instance in instances if HTTP in instance.metadata))
        if service == GATEWAY and http and http != self.http:
            self.http = http
            self.changed.set()


@contextlib.asynccontextmanager
async def serving(settings: Settings, places: Places) -> AsyncGenerator[str]:
    """Run Envoy while the context is open.

    Yields:
        The public URL, once all services were found and Envoy is ready.

    Raises:
        InvalidArgument: No etcd is configured.
        FailedPrecondition: Not all services are there.
        MoltbotError: etcd refuses to tell.
    """
    if not settings.etcd.endpoints:
        raise InvalidArgument("etcd.endpoints is empty: Envoy finds the services through etcd; or run `moltbot daemon`")
    client = EtcdClient(settings.etcd.endpoints)
    registry = EtcdRegistry(client, f"{settings.etcd.prefix}/services/")
    endpoints = _Endpoints()
    tasks = [asyncio.create_task(endpoints.follow(registry, service)) for service in EXPOSED]
    up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    try:
        await _until_complete(endpoints)
        tasks.append(asyncio.create_task(_keep(settings, places, endpoints, up)))
        await asyncio.wait({up, tasks[-1]}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            await tasks[-1]
        yield up.result()
    finally:
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()


async def _until_complete(endpoints: _Endpoints) -> None:
    try:
        async with asyncio.timeout(_START_S):
            while not endpoints.complete():
                if endpoints.problem is not None:
                    raise endpoints.problem
                await endpoints.changed.wait()
                endpoints.changed.clear()
    except TimeoutError:
        missing = ", ".join(service for service in EXPOSED if not endpoints.targets.get(service))
        raise FailedPrecondition(f"not in the registry after {_START_S:g} s: {missing}") from None


async def _keep(settings: Settings, places: Places, endpoints: _Endpoints, up: asyncio.Future[str]) -> None:
    endpoints.changed.clear()
    config = EnvoyConfig(
        upstreams=dict(endpoints.targets),
        http_upstream=endpoints.http,
        descriptor_set=descriptor_set(),
        listen_host=settings.host,
        listen_port=settings.port,
        clusters_file=places.run_dir / _CLUSTERS_FILE,
        admin_path=places.run_dir / ADMIN_SOCKET,
        body_limit_bytes=settings.gateway.body_limit_bytes,
        access_log=str(places.access_log),
        tls_certificate=settings.envoy.tls_certificate,
        tls_key=settings.envoy.tls_key,
        otlp_target=settings.telemetry.envoy_target,
        sample_ratio=settings.telemetry.sample_ratio,
    )
    envoy = EnvoyProcess(config, places.run_dir, settings.envoy.concurrency, settings.envoy.drain_s)
    envoy.check_port()
    envoy.prepare()
    child = envoy_supervisor(envoy)
    async with child.running(), bounded_log(envoy, places, settings):
        await child.wait_ready(_START_S)
        scheme = "https" if settings.envoy.tls_certificate else "http"
        up.set_result(f"{scheme}://{settings.host}:{await envoy.port()}")
        while True:
            await endpoints.changed.wait()
            endpoints.changed.clear()
            try:
                now = dataclasses.replace(config, upstreams=dict(endpoints.targets), http_upstream=endpoints.http)
                envoy.update(now)
            except OSError as error:
                log.error("endpoints not written, Envoy keeps those it has; trying again", error=str(error))
                await asyncio.sleep(_RETRY_S)
                endpoints.changed.set()
                continue
            log.info("endpoints", services={name: len(found) for name, found in endpoints.targets.items()})

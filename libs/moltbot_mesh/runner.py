"""Runs modules: all in one process, or one, with the others found through the registry.

One AsyncExitStack holds everything that was opened, so what is opened last is closed first, also when opening fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar, cast

import structlog
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from moltbot.audit.v1 import audit_pb2_grpc

from moltbot_mesh.api_keys import ApiKeys
from moltbot_mesh.audit.acts import LIFECYCLE, Acts
from moltbot_mesh.audit.calls import CallRecords
from moltbot_mesh.audit.producers import Producers
from moltbot_mesh.audit.settings import RecordingSettings
from moltbot_mesh.channel import MeshChannel, as_channel
from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.http_server import HttpServer
from moltbot_mesh.identity import MeshIdentity
from moltbot_mesh.inprocess import InProcessChannel
from moltbot_mesh.interceptors import Surroundings, wrapped_handlers
from moltbot_mesh.module import Module, Service, in_order
from moltbot_mesh.registry import HTTP, Instance, Registry
from moltbot_mesh.second_factor import FactorPolicy, second_factors
from moltbot_mesh.server import MeshServer
from moltbot_mesh.telemetry import Metrics, Telemetry, TelemetrySettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from pathlib import Path

    import grpc

    from moltbot_mesh.audit.producer import AuditProducer
    from moltbot_mesh.audit.sender import AppendsEvents
    from moltbot_mesh.keyvalue import KeyValueStore
    from moltbot_mesh.settings import Section

log = structlog.get_logger("moltbot.runner")
S = TypeVar("S", bound="Section")
_EVERYWHERE = frozenset({"", "*", "0.0.0.0", "[::]"})  # noqa: S104 - refused, not bound
_AUDIT = "audit"
_LEAVE_S = 0.3
"""Time that callers get to learn that an instance left the registry."""


@dataclass(frozen=True, slots=True)
class Node:
    """Where modules run."""

    data_dir: Path
    """Shared by the modules of this node, mode 0700."""
    mesh_key: bytes = field(repr=False)
    store: KeyValueStore
    listen: tuple[str, ...]
    """Addresses of this process's gRPC server."""
    listen_http: str = ""
    """Address of its HTTP server, if a service has one; empty: none is opened."""
    advertise: str = ""
    """Address under which other processes reach it; see `advertised`."""
    registry: Registry | None = None
    """Where other services are found. `None`: everything runs in this process."""
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    recording: RecordingSettings = field(default_factory=RecordingSettings)
    second_factor: FactorPolicy | None = field(default_factory=FactorPolicy)
    """Of administrators; `None`: their key is enough."""
    grace_s: float = 10.0
    """How long running calls may take to end when the process stops, in seconds."""


@dataclass(frozen=True, slots=True)
class Running:
    """What runs."""

    services: Mapping[str, Service]
    ports: tuple[int, ...]
    """Of each address in `Node.listen`, in order; 1 for a Unix socket."""
    metrics: Metrics
    channel: Callable[[str], grpc.aio.Channel]
    """A channel to a service, as the process itself (`daemon`)."""

    def missing(self) -> list[str]:
        """What keeps the process from serving, each with its service's name; empty when ready."""
        return [f"{name}: {what}" for name, service in self.services.items() for what in service.missing()]


class _Runtime:
    """What one module is given to open itself with (`moltbot_mesh.module.Runtime`)."""

    def __init__(self, module: str, process: _Process, calls: CallRecords) -> None:
        self.module = module
        self.instance = process.instance
        self.shared_dir = process.node.data_dir
        self.data_dir = process.node.data_dir / module
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.store = process.node.store
        self.api_keys = process.api_keys
        self.telemetry = Telemetry(module, process.metrics, process.node.telemetry, process.instance)
        self.identity = MeshIdentity(process.node.mesh_key, module)
        self.acts = Acts(calls, module, process.instance)
        self._process = process

    def derive_key(self, purpose: str) -> bytes:
        info = f"moltbot {self.module} {purpose}".encode()
        return HKDF(hashes.SHA256(), 32, None, info).derive(self._process.node.mesh_key)

    def settings(self, section: type[S]) -> S:
        return self._process.settings_of(self.module, section)

    def channel(self, service: str) -> grpc.aio.Channel:
        return self._process.channel(service, self.identity)

    def absent(self, service: str) -> str:
        return self._process.absent(service)

    def audit_producer(self) -> AuditProducer:
        return self._process.producer(self.identity, self.data_dir / "audit-spill", self.module)


class _Process:
    """The state of one process: handlers that grow as modules open, and channels by service."""

    def __init__(self, node: Node, settings: Section, stack: AsyncExitStack) -> None:
        self.node = node
        self.instance = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.metrics = Metrics()
        self.producers = Producers(node.recording, self.instance, self.metrics.registry)
        self.api_keys = ApiKeys(node.store)
        self.handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self.local: set[str] = set()
        self._settings = settings
        self.settings_digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()
        """Of the configuration in force: another one is another digest."""
        self._in_process = InProcessChannel(self.handlers)
        self._remote: dict[str, Any] = {}
        self._stack = stack

    def settings_of(self, module: str, section: type[S]) -> S:
        found = getattr(self._settings, module, None)
        if not isinstance(found, section):
            found = next((shared for _, shared in self._settings if isinstance(shared, section)), None)
        if found is None:
            raise TypeError(f"the configuration has no section {module} of type {section.__name__}")
        return found

    def channel(self, service: str, identity: MeshIdentity) -> grpc.aio.Channel:
        if service in self.local or self.node.registry is None:
            return as_channel(MeshChannel(self._in_process, identity, service))
        if service not in self._remote:
            from moltbot_mesh.balancer import BalancedChannel  # noqa: PLC0415 - one process needs no balancer

            channel = BalancedChannel(self.node.registry, service)
            self._remote[service] = channel
            self._stack.push_async_callback(channel.close)
        return as_channel(MeshChannel(self._remote[service], identity, service))

    def producer(self, identity: MeshIdentity, directory: Path, service: str) -> AuditProducer:
        stub = cast("AppendsEvents", audit_pb2_grpc.AuditServiceStub(self.channel(_AUDIT, identity)))
        return self.producers.make(stub, directory, service)

    def absent(self, service: str) -> str:
        if service in self.local or service not in self._remote:
            return ""
        channel = self._remote[service]
        if not channel.instances():
            return f"{service}: no instance is registered"
        return f"{service}: no instance answers" if channel.failing() == channel.instances() else ""


def advertised(advertise: str, listen: str, port: int) -> str:
    """The address under which other processes reach a server.

    Args:
        advertise: As it is set; port 0 stands for the one that was bound. Empty: where it listens.
        listen: The address it listens on.
        port: The port that was bound.

    Raises:
        InvalidArgument: It listens on all addresses, of which none is named.
    """
    if not advertise and listen.startswith("unix:"):
        return listen
    host, _, wanted = (advertise or listen).rpartition(":")
    if not advertise and host in _EVERYWHERE:
        raise InvalidArgument(
            f"listen {listen} is no address that others could reach; set `advertise` (MOLTBOT_ADVERTISE) to one, "
            "such as 10.0.0.7:0"
        )
    return advertise if advertise and wanted != "0" else f"{host}:{port}"


@contextlib.asynccontextmanager
async def _recording(calls: CallRecords, process: _Process, name: str) -> AsyncGenerator[None]:
    """Record the calls of clients to the process `name` while the context is open."""
    node = process.node
    producer = process.producer(MeshIdentity(node.mesh_key, name), node.data_dir / name / "calls-spill", name)
    async with producer.running():
        calls.producer = producer
        acts = Acts(calls, name, process.instance)
        services = {"services": ",".join(sorted(process.local)), "version": version("moltbot")}
        acts.after(LIFECYCLE, "start", name, services | {"configuration_sha256": process.settings_digest})
        try:
            yield
        finally:
            acts.after(LIFECYCLE, "stop", name, services)
            calls.producer = None


async def _http(process: _Process, services: Mapping[str, Service], stack: AsyncExitStack) -> dict[str, str]:
    """Open the HTTP server of the service that has one, if any.

    Returns:
        Where others reach it, by the service's name.
    """
    node = process.node
    for name, service in services.items():
        if service.http is not None and node.listen_http:
            server = HttpServer(process.handlers, service.http)
            port = await stack.enter_async_context(server.serving(node.listen_http, node.grace_s))
            host = node.advertise.rpartition(":")[0]
            return {name: advertised(f"{host}:0" if host else "", node.listen_http, port)}
    return {}


@contextlib.asynccontextmanager
async def running(
    modules: Mapping[str, Module], targets: Sequence[str], settings: Section, node: Node
) -> AsyncGenerator[Running]:
    """Open modules and serve them while the context is open.

    Args:
        modules: All modules by name.
        targets: Which to run. Without a registry, also all that they need.
        settings: The configuration, with a section named after each module.
        node: Where they run.

    Raises:
        MoltbotError: A module cannot be opened; what was opened before it is closed again.
    """
    order = in_order(modules, targets) if node.registry is None else [modules[name] for name in targets]
    async with AsyncExitStack() as stack:
        process = _Process(node, settings, stack)
        await stack.enter_async_context(process.api_keys.watching())
        calls = CallRecords(process.instance)
        factors = second_factors(node.store, node.mesh_key, node.second_factor) if node.second_factor else None
        services: dict[str, Service] = {}
        names: dict[str, list[str]] = {}
        for module in order:
            runtime = _Runtime(module.name, process, calls)
            stack.callback(runtime.telemetry.close)
            service = await stack.enter_async_context(module.open(runtime))
            around = Surroundings(runtime.telemetry, runtime.identity, process.api_keys, calls, factors)
            for registration in service.registrations:
                handlers = wrapped_handlers(registration, around)
                process.handlers.update(handlers)
                names.setdefault(module.name, []).extend({m.split("/")[1] for m in handlers})
            services[module.name] = service
            process.local.add(module.name)
            log.info("module open", module=module.name)
        if _AUDIT in process.local or node.registry is not None:
            name = order[-1].name if node.registry is not None else "daemon"
            await stack.enter_async_context(_recording(calls, process, name))
        server = MeshServer(process.handlers)
        ports = tuple(server.listen(target) for target in node.listen)
        await stack.enter_async_context(server.serving(node.grace_s))
        http = await _http(process, services, stack)
        await server.set_health(["", *(name for found in names.values() for name in found)], serving=True)
        if node.registry is not None:
            address = advertised(node.advertise, node.listen[0], ports[0])
            # Left first: callers learn of it, and calls on their way still find the server.
            stack.push_async_callback(asyncio.sleep, _LEAVE_S)
            for name in services:
                instance = Instance(name, process.instance, address, {HTTP: http[name]} if name in http else {})
                await stack.enter_async_context(node.registry.register(instance))
        outside = MeshIdentity(node.mesh_key, "daemon")
        yield Running(services, ports, process.metrics, lambda service: process.channel(service, outside))

"""What a service is to the runner: a name, what it needs, and how to open it.

The same modules run all in one process (`moltbot daemon`) or one in each (`moltbot serve NAME`); the runner alone knows
which. Source of the shape: Grafana Tempo's `cmd/tempo/app/modules.go`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import grpc.aio

    from moltbot_mesh.api_keys import ApiKeys
    from moltbot_mesh.audit.acts import Acts
    from moltbot_mesh.audit.producer import AuditProducer
    from moltbot_mesh.http_server import HttpRoutes
    from moltbot_mesh.keyvalue import KeyValueStore
    from moltbot_mesh.settings import Section
    from moltbot_mesh.telemetry import Telemetry

S = TypeVar("S", bound="Section")


class Access(Enum):
    """Who may call a method. Nothing is open unless it says so."""

    SERVICE = "service"
    """Services of the mesh only. The default."""
    TENANT = "tenant"
    """Also an API key, which then acts for its own tenant alone."""
    OPERATOR = "admin"
    """Also an API key with the role `admin`: who runs the system."""
    SECURITY = "security"
    """Also an API key with the role `security`: who looks after keys and people's data."""
    AUDITOR = "auditor"
    """Also an API key with the role `auditor`: who reads the log, and nobody else does."""
    PUBLIC = "public"
    """Anybody; the servicer authenticates by itself or tells nothing worth protecting."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A servicer and who may call it."""

    add: Callable[[Any, Any], None]
    """The generated `add_…Servicer_to_server`."""
    servicer: object
    access: Mapping[str, Access] = field(default_factory=dict)
    """By method name (`Query`); a method that is not named is `Access.SERVICE`."""
    recorded: frozenset[str] = frozenset()
    """Methods whose servicer records in the audit log who calls them; calls to all others are recorded around it."""


def nothing_missing() -> Sequence[str]:
    """Answer of a service that is ready as soon as it is open."""
    return ()


@dataclass(frozen=True, slots=True)
class Service:
    """An opened module."""

    registrations: tuple[Registration, ...]
    missing: Callable[[], Sequence[str]] = nothing_missing
    """What keeps it from serving, in words for people; empty when ready. Cheap: asked by every readiness check."""
    http: HttpRoutes | None = None
    """What it answers by HTTP/1.1 as well as by gRPC."""


class Runtime(Protocol):
    """What the runner gives a module to open itself with."""

    @property
    def module(self) -> str:
        """The module's name."""
        ...

    @property
    def instance(self) -> str:
        """Unique among the running instances of the module."""
        ...

    @property
    def data_dir(self) -> Path:
        """A directory of the module's own, mode 0700; it exists."""
        ...

    @property
    def shared_dir(self) -> Path:
        """The data directory that all modules of this node share (mesh key, API keys)."""
        ...

    @property
    def telemetry(self) -> Telemetry:
        """Tracer and metrics under the module's own service name."""
        ...

    @property
    def store(self) -> KeyValueStore:
        """Small configuration that all instances see: files on one node, etcd in a cluster."""
        ...

    @property
    def api_keys(self) -> ApiKeys:
        """The API keys of all tenants."""
        ...

    @property
    def acts(self) -> Acts:
        """Records what the module does, in the audit log."""
        ...

    def derive_key(self, purpose: str) -> bytes:
        """A key of 32 bytes for one purpose of this module, from the mesh key (HKDF-SHA256, RFC 5869)."""
        ...

    def settings(self, section: type[S]) -> S:
        """The module's validated section of the configuration, or the one of that type which all modules share."""
        ...

    def channel(self, service: str) -> grpc.aio.Channel:
        """A channel to another service, for its generated stub; shared, not to be closed by the module."""
        ...

    def absent(self, service: str) -> str:
        """Why calls to a service of which there is a channel cannot succeed now; empty as far as is known."""
        ...

    def audit_producer(self) -> AuditProducer:
        """What the module records itself with; it spills below `data_dir` while the module has it running."""
        ...


@dataclass(frozen=True, slots=True)
class Module:
    """One service of the mesh."""

    name: str
    needs: tuple[str, ...]
    """Modules whose service is called while this one serves; opened before it and closed after it."""
    open: Callable[[Runtime], AbstractAsyncContextManager[Service]]


def in_order(modules: Mapping[str, Module], targets: Sequence[str]) -> list[Module]:
    """Sort the targets and all they need so that each comes after what it needs.

    Args:
        modules: All modules by name.
        targets: The modules to run.

    Raises:
        ValueError: A module is not known, or modules need each other in a circle.
    """
    ordered: list[Module] = []
    state: dict[str, str] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name not in modules:
            by = f", needed by {path[-1]}" if path else ""
            raise ValueError(f"no module is named {name!r}{by}; there are: {', '.join(sorted(modules))}")
        if state.get(name) == "done":
            return
        if state.get(name) == "open":
            raise ValueError(f"modules need each other in a circle: {' → '.join((*path, name))}")
        state[name] = "open"
        for need in modules[name].needs:
            visit(need, (*path, name))
        state[name] = "done"
        ordered.append(modules[name])

    for target in targets:
        visit(target, ())
    return ordered

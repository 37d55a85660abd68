"""What Envoy is to do, in the mesh's own terms; `bootstrap` turns it into Envoy's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GATEWAY = "gateway"
"""The upstream that has what belongs to no other: unknown routes, health, reflection, refusals to be audited."""

GATEWAY_HTTP = "gateway-http"
"""The gateway by HTTP/1.1."""

EXPOSED: Mapping[str, tuple[str, ...]] = {
    GATEWAY: (
        "moltbot.gateway.v1.OpenAIService",
        "moltbot.gateway.v1.OperationsService",
        "moltbot.gateway.v1.GatewayService",
    ),
    "router": ("moltbot.router.v1.RouterService",),
    "context": ("moltbot.context.v1.ContextService",),
    "tool": ("moltbot.tool.v1.ToolService",),
    "audit": ("moltbot.audit.v1.AuditService", "moltbot.audit.v1.PrivacyService"),
    "watermark": ("moltbot.watermark.v1.WatermarkService",),
}
"""The gRPC services that clients may call, by the mesh service that has them. Each checks access itself."""

GATEWAY_PASSES = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "grpc.reflection.v1.ServerReflection",
)
"""gRPC services that are passed to the gateway and never transcoded."""

_PIPE_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux, without the closing zero."""


@dataclass(frozen=True, slots=True)
class EnvoyConfig:
    """What one Envoy does."""

    upstreams: Mapping[str, tuple[str, ...]]
    """Where each mesh service listens: `unix:/path` or `host:port`, one or more. Services that listen in the same place
    share one cluster. `gateway` must be there; others that are missing are not exposed."""
    descriptor_set: Path
    """The `FileDescriptorSet` of the protos, with google/rpc/error_details.proto."""
    http_upstream: tuple[str, ...] = ()
    """Where the gateway listens for HTTP/1.1: it gets the routes of `http_routes.PASSED_ON` as they came. Empty: these
    too are transcoded to gRPC."""
    listen_host: str = "127.0.0.1"
    listen_port: int = 8080
    """0 lets the system choose; `EnvoyProcess.port` tells."""
    clusters_file: Path | None = None
    """File from which Envoy takes its clusters, and takes them again whenever it is replaced: instances come and go
    without a restart, each service in a cluster of its own. `None`: the clusters are part of the configuration."""
    admin_path: Path | None = None
    """Unix socket of the admin interface; `None` means no admin interface. It can stop Envoy: never a TCP port."""
    body_limit_bytes: int = 16 << 20
    """Largest body of a transcoded request; one byte more is answered 413."""
    max_request_headers_kib: int = 16
    """Headers of a request together; more is answered 431. gRPC servers behind must take as much metadata."""
    access_log: str = "stderr"
    """`stderr`, a file, or empty for none. Has no query strings, bodies or credentials."""
    refusals_log: bool = True
    """Whether the gateway is told (Envoy's access log service) what Envoy refused by itself, so that it is audited."""
    tls_certificate: Path | None = None
    """PEM chain; with `tls_key` the port speaks TLS."""
    tls_key: Path | None = None
    """PEM key of the certificate."""
    otlp_target: str = ""
    """`host:port` of an OTLP/gRPC collector; empty: Envoy makes no spans and passes `traceparent` on as it came."""
    sample_ratio: float = 0.01
    """Share of the traces that begin here and are recorded, 0 to 1."""
    request_timeout_s: float = 0.0
    """Longest time of a whole request, streams included; 0 is no limit: the gateway has its own."""
    stream_idle_timeout_s: float = 300.0
    """A stream on which nothing moves this long is ended."""
    request_headers_timeout_s: float = 10.0
    """A client that has not sent its headers by then is answered 408."""
    request_arrival_timeout_s: float = 120.0
    """A client whose request, body and all, is not here by then is answered 408: one that sends a byte now and then is
    never idle."""
    connection_idle_timeout_s: float = 600.0
    """A connection without a request is closed after this."""
    max_connections: int = 10_000
    """Client connections at once; more are closed as they come."""
    max_requests: int = 16_384
    """Requests to one upstream at once; more are answered 503."""
    max_heap_bytes: int = 2 << 30
    """At 95 % of this heap new requests are answered 503; at 90 % free memory is given back."""
    trusted_proxies: int = 0
    """Proxies in front whose `x-forwarded-for` is believed; 0 takes the peer's address."""
    cors_origins: tuple[str, ...] = ()
    """Origins (`https://chat.example`) whose pages may call; empty: none."""
    services: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: EXPOSED)
    """The gRPC services exposed, by mesh service."""

    def __post_init__(self) -> None:
        if not self.upstreams.get(GATEWAY):
            raise InvalidArgument(
                f"envoy: no upstream for {GATEWAY!r}; without it no request can be answered or refused"
            )
        for service, targets in self.upstreams.items():
            if service not in self.services:
                there = ", ".join(self.services)
                raise InvalidArgument(
                    f"envoy: {service!r} has nothing that clients may call; upstreams can be: {there}"
                )
            for target in targets:
                _check_target(service, target)
        for target in self.http_upstream:
            _check_target(GATEWAY_HTTP, target)
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidArgument("envoy: tls_certificate and tls_key belong together; set both or none")
        if self.admin_path is not None:
            check_pipe(str(self.admin_path))


def split_host_port(target: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port`.

    Raises:
        InvalidArgument: It is neither.
    """
    host, colon, port = target.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"envoy: {target!r} is not an address; write unix:/path or host:port")
    return host.strip("[]"), int(port)


def check_pipe(path: str) -> None:
    """Refuse a path that a Unix socket cannot have.

    Raises:
        InvalidArgument: It is too long.
    """
    if len(path.encode()) > _PIPE_PATH_BYTES:
        raise InvalidArgument(f"envoy: {path} is too long for a Unix socket ({_PIPE_PATH_BYTES} bytes at most)")


def _check_target(service: str, target: str) -> None:
    if target.startswith("unix:"):
        check_pipe(target.removeprefix("unix:"))
        return
    try:
        split_host_port(target)
    except InvalidArgument as error:
        raise InvalidArgument(f"{error.message} (upstream of {service})") from None

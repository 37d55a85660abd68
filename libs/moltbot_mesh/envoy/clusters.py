"""Envoy's clusters: where the mesh services are and how Envoy speaks to them."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from moltbot_mesh.envoy.config import GATEWAY, GATEWAY_HTTP, split_host_port
from moltbot_mesh.http_routes import HEALTH

if TYPE_CHECKING:
    from moltbot_mesh.envoy.config import EnvoyConfig

Node = dict[str, Any]
"""A message of Envoy's configuration, as protobuf JSON."""

OTLP = "otlp"
_STREAM_WINDOW_BYTES = 1 << 20
_CONNECTION_WINDOW_BYTES = 8 << 20
_BUFFER_BYTES = 1 << 20
_HTTP_IDLE = "60s"


def typed(name: str, /, **fields: Any) -> Node:
    """A `google.protobuf.Any` of one of Envoy's messages."""
    return {"@type": f"type.googleapis.com/{name}", **fields}


def seconds(value: float) -> str:
    """A `google.protobuf.Duration`."""
    return f"{value:g}s"


def cluster_names(config: EnvoyConfig) -> dict[str, str]:
    """The cluster of each mesh service; services in the same place share one, the gateway's before any other's.

    With a `clusters_file` each has its own: routes name it, and places change.
    """
    if config.clusters_file is not None:
        return {service: service for service, targets in config.upstreams.items() if targets}
    by_targets: dict[tuple[str, ...], str] = {}
    names: dict[str, str] = {}
    for service in sorted(config.upstreams, key=lambda name: (name != GATEWAY, name)):
        targets = tuple(config.upstreams[service])
        if targets:
            names[service] = by_targets.setdefault(targets, service)
    return names


def mesh_clusters(config: EnvoyConfig) -> list[Node]:
    """The clusters of the mesh services: one a place, and the gateway's by HTTP/1.1."""
    found = [_grpc_cluster(config, name) for name in dict.fromkeys(cluster_names(config).values())]
    return [*found, _http_cluster(config)] if config.http_upstream else found


def static_clusters(config: EnvoyConfig) -> list[Node]:
    """The clusters that are part of the bootstrap: the trace collector's, and without a `clusters_file` all."""
    found = mesh_clusters(config) if config.clusters_file is None else []
    if config.otlp_target:
        found.append(_http2_cluster(OTLP, (config.otlp_target,), {"max_concurrent_streams": 100}))
    return found


def discovery_response(config: EnvoyConfig) -> Node:
    """What the `clusters_file` holds.

    Source: xDS, `envoy.service.discovery.v3.DiscoveryResponse` from a path.
    """
    return {"resources": [typed("envoy.config.cluster.v3.Cluster", **cluster) for cluster in mesh_clusters(config)]}


def _grpc_cluster(config: EnvoyConfig, name: str) -> Node:
    http2 = {
        "max_concurrent_streams": 1024,
        "initial_stream_window_size": _STREAM_WINDOW_BYTES,
        "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
        # A host that vanished without a word must not hold streams for the kernel's two hours.
        "connection_keepalive": {"interval": "30s", "timeout": "10s"},
    }
    targets = tuple(config.upstreams[name])
    return _mesh_cluster(config, _http2_cluster(name, targets, http2), targets, {"grpc_health_check": {}})


def _http_cluster(config: EnvoyConfig) -> Node:
    protocol = {
        "explicit_http_config": {"http_protocol_options": {}},
        # Envoy closes first: the gateway closing a connection just when a request is sent on it would cost the request.
        "common_http_protocol_options": {"idle_timeout": _HTTP_IDLE},
    }
    health = {"http_health_check": {"path": HEALTH[1]}}
    cluster = _mesh_cluster(
        config, _cluster(GATEWAY_HTTP, config.http_upstream, protocol), config.http_upstream, health
    )
    # A connection carries one request at a time.
    cluster["circuit_breakers"]["thresholds"][0]["max_connections"] = config.max_requests
    return cluster


def _mesh_cluster(config: EnvoyConfig, cluster: Node, targets: tuple[str, ...], health_check: Node) -> Node:
    """Limits, and for several targets balancing and health."""
    limit = config.max_requests
    cluster["circuit_breakers"] = {
        "thresholds": [{"max_connections": 1024, "max_pending_requests": limit, "max_requests": limit}]
    }
    cluster["per_connection_buffer_limit_bytes"] = _BUFFER_BYTES
    if len(targets) > 1:
        cluster["lb_policy"] = "LEAST_REQUEST"
        cluster["health_checks"] = [
            {
                "timeout": "2s",
                "interval": "5s",
                "no_traffic_interval": "5s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                **health_check,
            }
        ]
        # A host that cannot be reached is left out sooner than its next two health checks would tell. What a service
        # answers itself does not count: UNAVAILABLE from the gateway is about a model, not about the gateway.
        cluster["outlier_detection"] = {
            "split_external_local_origin_errors": True,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "consecutive_local_origin_failure": 5,
            "enforcing_local_origin_success_rate": 0,
            "base_ejection_time": "5s",
            "max_ejection_percent": 50,
        }
    return cluster


def _http2_cluster(name: str, targets: tuple[str, ...], http2: Node) -> Node:
    return _cluster(name, targets, {"explicit_http_config": {"http2_protocol_options": http2}})


def _cluster(name: str, targets: tuple[str, ...], protocol: Node) -> Node:
    return {
        "name": name,
        "type": "STATIC" if all(_is_literal(target) for target in targets) else "STRICT_DNS",
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions", **protocol
            )
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(target)}} for target in targets]}],
        },
    }


def _is_literal(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    try:
        ipaddress.ip_address(split_host_port(target)[0])
    except ValueError:
        return False
    return True


def _address(target: str) -> Node:
    if target.startswith("unix:"):
        return {"pipe": {"path": target.removeprefix("unix:")}}
    host, port = split_host_port(target)
    return {"socket_address": {"address": host, "port_value": port}}

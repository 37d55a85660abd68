"""An Envoy that lets other machines call some methods of one local gRPC server, each side proven by its certificate.

Nothing else of the server can be reached through it, whatever a client knows. Certificates are taken anew when their
files are replaced by renaming, also where a folder of links is (Kubernetes); connections that stand are kept.

Source: Envoy's secret discovery service from files, `envoy.extensions.transport_sockets.tls.v3`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_mesh.envoy.bootstrap import LISTENER, STAT_PREFIX
from moltbot_mesh.envoy.clusters import Node, typed
from moltbot_mesh.envoy.config import check_pipe

if TYPE_CHECKING:
    from pathlib import Path

_UPSTREAM = "local"
_TLS = "envoy.extensions.transport_sockets.tls.v3"
_WINDOWS = {"initial_stream_window_size": 1 << 20, "initial_connection_window_size": 8 << 20}
_MOST_STREAMS = 4096


@dataclass(frozen=True, slots=True)
class DoorConfig:
    """What one door opens to whom."""

    listen_host: str
    listen_port: int
    certificate: Path
    """PEM chain that proves this node."""
    key: Path
    client_ca: Path
    """PEM authorities; a client's certificate must come from one of them."""
    socket: Path
    """Unix socket of the local gRPC server."""
    methods: tuple[str, ...]
    """What may be called: `/package.Service/Method`."""
    admin_path: Path
    """Unix socket of Envoy's admin interface."""
    client_names: tuple[str, ...] = ()
    """Alternative names, of which a client's certificate must have one: DNS, or URI (with `://`). Empty: any name."""
    dropped_headers: tuple[str, ...] = ()
    """What the server must not hear from here."""

    def __post_init__(self) -> None:
        for path in (self.socket, self.admin_path):
            check_pipe(str(path))


def door_files(config: DoorConfig, run_dir: Path, config_file: Path) -> dict[Path, str]:
    """All files that this Envoy reads, and what stands in them.

    Args:
        config: What it does.
        run_dir: For the files beside the bootstrap.
        config_file: The bootstrap.
    """
    certificate, clients = run_dir / "door-certificate.json", run_dir / "door-clients.json"
    chain: Node = {"certificate_chain": _file(config.certificate), "private_key": _file(config.key)}
    if config.certificate.parent == config.key.parent:
        chain["watched_directory"] = {"path": str(config.key.parent)}
    trusted: Node = {
        "trusted_ca": _file(config.client_ca),
        "watched_directory": {"path": str(config.client_ca.parent)},
        "match_typed_subject_alt_names": [
            {"san_type": "URI" if "://" in name else "DNS", "matcher": {"exact": name}} for name in config.client_names
        ],
    }
    found = {
        config_file: _bootstrap(config, certificate, clients),
        certificate: _secret("certificate", tls_certificate=chain),
        clients: _secret("clients", validation_context=trusted),
    }
    return {file: json.dumps(node, separators=(",", ":")) for file, node in found.items()}


def _file(path: Path) -> Node:
    return {"filename": str(path)}


def _secret(name: str, **content: Node) -> Node:
    return {"resources": [typed(f"{_TLS}.Secret", name=name, **content)]}


def _source(name: str, file: Path) -> Node:
    return {"name": name, "sds_config": {"path_config_source": {"path": str(file)}, "resource_api_version": "V3"}}


def _bootstrap(config: DoorConfig, certificate: Path, clients: Path) -> Node:
    tls = typed(
        f"{_TLS}.DownstreamTlsContext",
        require_client_certificate=True,
        common_tls_context={
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [_source("certificate", certificate)],
            "validation_context_sds_secret_config": _source("clients", clients),
        },
    )
    listener: Node = {
        "name": LISTENER,
        "address": {"socket_address": {"address": config.listen_host, "port_value": config.listen_port}},
        "enable_reuse_port": False,
        "filter_chains": [
            {
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                "transport_socket_connect_timeout": "10s",
                "filters": [
                    {"name": "envoy.filters.network.http_connection_manager", "typed_config": _manager(config)}
                ],
            }
        ],
    }
    return {
        "node": {"id": "moltbot-door", "cluster": "moltbot"},
        "admin": {"address": {"pipe": {"path": str(config.admin_path), "mode": 0o600}}},
        "static_resources": {"listeners": [listener], "clusters": [_cluster(config)]},
        "stats_flush_interval": "60s",
    }


def _manager(config: DoorConfig) -> Node:
    open_to_all: Node = {"cluster": _UPSTREAM, "timeout": "0s"}
    routes: list[Node] = [{"match": {"path": method}, "route": open_to_all} for method in config.methods]
    # A gRPC client hears PERMISSION_DENIED.
    routes.append({"match": {"prefix": "/"}, "direct_response": {"status": 403}})
    return typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=STAT_PREFIX,
        codec_type="HTTP2",
        server_name="moltbot",
        route_config={
            "virtual_hosts": [{"name": "door", "domains": ["*"], "routes": routes}],
            "request_headers_to_remove": list(config.dropped_headers),
        },
        http_filters=[
            {
                "name": "envoy.filters.http.router",
                "typed_config": typed("envoy.extensions.filters.http.router.v3.Router"),
            }
        ],
        http2_protocol_options={"max_concurrent_streams": 1024, **_WINDOWS},
        common_http_protocol_options={"headers_with_underscores_action": "REJECT_REQUEST", "max_headers_count": 100},
        stream_idle_timeout="0s",
        generate_request_id=False,
    )


def _cluster(config: DoorConfig) -> Node:
    options = typed(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http2_protocol_options": {"max_concurrent_streams": 1024, **_WINDOWS}},
    )
    endpoint: Node = {"endpoint": {"address": {"pipe": {"path": str(config.socket)}}}}
    return {
        "name": _UPSTREAM,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": _UPSTREAM, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "circuit_breakers": {"thresholds": [{"max_requests": _MOST_STREAMS, "max_pending_requests": _MOST_STREAMS}]},
    }

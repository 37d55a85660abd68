"""Envoy's bootstrap from an `EnvoyConfig`: one port for HTTP/1.1, HTTP/2, REST, SSE, gRPC and gRPC-Web.

Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/api; the best practices for Envoy as an edge proxy.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml

from moltbot_mesh.envoy.access_log import access_logs
from moltbot_mesh.envoy.clusters import OTLP, Node, seconds, static_clusters, typed
from moltbot_mesh.envoy.http_filters import http_filters
from moltbot_mesh.envoy.local_replies import local_replies
from moltbot_mesh.envoy.routes import route_configuration

if TYPE_CHECKING:
    from moltbot_mesh.envoy.config import EnvoyConfig

LISTENER = "public"
STAT_PREFIX = "public"
_CONNECTION_BUFFER_BYTES = 1 << 20
_STREAM_WINDOW_BYTES = 1 << 20
_CONNECTION_WINDOW_BYTES = 8 << 20
_MILLION = 1_000_000


def bootstrap(config: EnvoyConfig) -> Node:
    """Build the bootstrap, as protobuf JSON."""
    found: Node = {
        "node": {"id": "moltbot", "cluster": "moltbot"},
        "application_log_config": {
            "log_format": {"json_format": {"time": "%Y-%m-%dT%T.%eZ", "level": "%l", "logger": "%n", "message": "%j"}}
        },
        "static_resources": {"listeners": [_listener(config)], "clusters": static_clusters(config)},
        "overload_manager": _overload_manager(config),
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
        "stats_flush_interval": "60s",
    }
    if config.clusters_file is not None:
        source = {"path": str(config.clusters_file)}
        found["dynamic_resources"] = {"cds_config": {"path_config_source": source, "resource_api_version": "V3"}}
    if config.admin_path is not None:
        found["admin"] = {"address": {"pipe": {"path": str(config.admin_path), "mode": 0o600}}}
    return found


def to_json(found: Node) -> str:
    """The bootstrap as Envoy reads it from a file that ends in `.json`."""
    return json.dumps(found, separators=(",", ":"))


def to_yaml(found: Node) -> str:
    """The bootstrap for people; Envoy reads it from a file that ends in `.yaml`."""
    return yaml.dump(found, Dumper=_Dumper, sort_keys=False, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and a repeated value each time it occurs."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Never an alias: Envoy's reader takes them, people do not."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _listener(config: EnvoyConfig) -> Node:
    chain: Node = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": _hcm(config)}]}
    if config.tls_certificate is not None and config.tls_key is not None:
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": typed(
                "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                common_tls_context={
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                    "tls_certificates": [
                        {
                            "certificate_chain": {"filename": str(config.tls_certificate)},
                            "private_key": {"filename": str(config.tls_key)},
                        }
                    ],
                },
            ),
        }
        chain["transport_socket_connect_timeout"] = seconds(config.request_headers_timeout_s)
    return {
        "name": LISTENER,
        "address": {"socket_address": {"address": config.listen_host, "port_value": config.listen_port}},
        "per_connection_buffer_limit_bytes": _CONNECTION_BUFFER_BYTES,
        # Shared ports would let two installations answer each other's requests by chance: an error is better.
        "enable_reuse_port": False,
        "filter_chains": [chain],
    }


def _hcm(config: EnvoyConfig) -> Node:
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=STAT_PREFIX,
        codec_type="AUTO",
        server_name="moltbot",
        route_config=route_configuration(config),
        http_filters=http_filters(config),
        access_log=access_logs(config),
        local_reply_config=local_replies(config),
        # Who asks.
        use_remote_address=True,
        xff_num_trusted_hops=config.trusted_proxies,
        internal_address_config={"unix_sockets": False},
        # Request ids: a client's is kept as it is.
        generate_request_id=True,
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        request_id_extension={
            "typed_config": typed(
                "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                pack_trace_reason=False,
                use_request_id_for_trace_sampling=False,
            )
        },
        # What is a request at all.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        max_request_headers_kb=config.max_request_headers_kib,
        common_http_protocol_options={
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 100,
            "idle_timeout": seconds(config.connection_idle_timeout_s),
        },
        http2_protocol_options={
            "max_concurrent_streams": 128,
            "initial_stream_window_size": _STREAM_WINDOW_BYTES,
            "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
        },
        request_timeout=seconds(config.request_arrival_timeout_s),
        request_headers_timeout=seconds(config.request_headers_timeout_s),
        stream_idle_timeout=seconds(config.stream_idle_timeout_s),
    )
    if config.otlp_target:
        manager["tracing"] = _tracing(config)
    return manager


def _tracing(config: EnvoyConfig) -> Node:
    samplers = "envoy.extensions.tracers.opentelemetry.samplers.v3"
    share = {"numerator": round(config.sample_ratio * _MILLION), "denominator": "MILLION"}
    ratio = {
        "name": "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based",
        "typed_config": typed(f"{samplers}.TraceIdRatioBasedSamplerConfig", sampling_percentage=share),
    }
    return {
        "spawn_upstream_span": False,
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": typed(
                "envoy.config.trace.v3.OpenTelemetryConfig",
                service_name="moltbot-envoy",
                grpc_service={"envoy_grpc": {"cluster_name": OTLP}, "timeout": "2s"},
                # Request ids decide nothing here (see `request_id_extension`), so that without a sampler of its own the
                # tracer would record every request.
                sampler={
                    "name": "envoy.tracers.opentelemetry.samplers.parent_based",
                    "typed_config": typed(f"{samplers}.ParentBasedSamplerConfig", wrapped_sampler=ratio),
                },
            ),
        },
    }


def _overload_manager(config: EnvoyConfig) -> Node:
    heap = "envoy.resource_monitors.fixed_heap"
    connections = "envoy.resource_monitors.global_downstream_max_connections"

    def above(value: float) -> list[Node]:
        return [{"name": heap, "threshold": {"value": value}}]

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": typed(
                    "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    max_heap_size_bytes=config.max_heap_bytes,
                ),
            },
            {
                "name": connections,
                "typed_config": typed(
                    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=config.max_connections,
                ),
            },
        ],
        "actions": [
            {"name": "envoy.overload_actions.shrink_heap", "triggers": above(0.90)},
            {"name": "envoy.overload_actions.stop_accepting_requests", "triggers": above(0.95)},
        ],
    }

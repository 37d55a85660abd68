"""Envoy's routes: gRPC services by their prefix, what models answer by HTTP/1.1, everything else to the transcoder.

A REST request is routed twice: by the path as it came, where it meets the last route and gets the headers for the
audit, and again as the gRPC call that the transcoder made of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moltbot_mesh.envoy.clusters import Node, cluster_names, seconds, typed
from moltbot_mesh.envoy.config import GATEWAY, GATEWAY_HTTP, GATEWAY_PASSES
from moltbot_mesh.headers import MESH_METHOD, MESH_PATH, REQUEST_ID
from moltbot_mesh.http_routes import PASSED_ON

if TYPE_CHECKING:
    from moltbot_mesh.envoy.config import EnvoyConfig

HEADER_MUTATION = "envoy.filters.http.header_mutation"
GRPC_WEB = "envoy.filters.http.grpc_web"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
BUFFER = "envoy.filters.http.buffer"
_PATH_LENGTH = 1024

# Not Envoy's own `grpc: {}`: the route is chosen before gRPC-Web (`application/grpc-web+proto`) has become gRPC.
_GRPC: Node = {"headers": [{"name": "content-type", "string_match": {"prefix": "application/grpc"}}]}


def exposed_services(config: EnvoyConfig) -> list[str]:
    """Full names of the gRPC services that have an upstream."""
    return [name for service in cluster_names(config) for name in config.services[service]]


def route_configuration(config: EnvoyConfig) -> Node:
    """The one virtual host."""
    clusters = cluster_names(config)
    routes = [_grpc_route(config, name, clusters[service]) for service in clusters for name in config.services[service]]
    routes += [_grpc_route(config, name, clusters[GATEWAY]) for name in GATEWAY_PASSES]
    passed_on = [_http_route(config, verb, path) for verb, path in PASSED_ON] if config.http_upstream else []
    routes += [_unknown_grpc(), *passed_on, _rest(clusters[GATEWAY])]
    host: Node = {"name": "public", "domains": ["*"], "routes": routes}
    if config.cors_origins:
        host["typed_per_filter_config"] = {"envoy.filters.http.cors": _cors(config)}
    return {
        "name": "public",
        "virtual_hosts": [host],
        # Clusters from a file are there before the port is open, but not when the routes are read.
        "validate_clusters": config.clusters_file is None,
        # A client's own id was dropped if it was not one; see `status.lua`.
        "request_headers_to_add": [
            {"header": {"key": REQUEST_ID, "value": "%UNIQUE_ID%"}, "append_action": "ADD_IF_ABSENT"}
        ],
    }


def _grpc_route(config: EnvoyConfig, service: str, cluster: str) -> Node:
    return {"name": service, "match": {"prefix": f"/{service}/", **_GRPC}, "route": _action(config, cluster)}


def _http_route(config: EnvoyConfig, verb: str, path: str) -> Node:
    """A route that is passed on as it came, its body whole and within the limit."""
    only = {"headers": [{"name": ":method", "string_match": {"exact": verb}}]}
    config_of = "envoy.config.route.v3.FilterConfig"
    filters = {name: typed(config_of, disabled=True) for name in (GRPC_WEB, TRANSCODER)}
    filters[BUFFER] = typed(config_of, config={})
    return {
        "name": path,
        "match": {"path": path, **only},
        "route": _action(config, GATEWAY_HTTP),
        "typed_per_filter_config": filters,
    }


def _action(config: EnvoyConfig, cluster: str) -> Node:
    action: Node = {
        "cluster": cluster,
        "timeout": seconds(config.request_timeout_s),
        "idle_timeout": seconds(config.stream_idle_timeout_s),
    }
    if config.clusters_file is not None or any(len(targets) > 1 for targets in config.upstreams.values()):
        # Only what no server has seen is tried again: answering is not idempotent.
        action["retry_policy"] = {"retry_on": "connect-failure,refused-stream", "num_retries": 2}
    return action


def _unknown_grpc() -> Node:
    return {
        "name": "unknown-grpc",
        "match": {"prefix": "/", **_GRPC},
        "direct_response": {"status": 404, "body": {"inline_string": "no such service"}},
    }


def _rest(cluster: str) -> Node:
    return {
        "name": "rest",
        "match": {"prefix": "/"},
        # Nothing is sent this way: the transcoder routes anew or refuses. CORS asks for a route to somewhere.
        "route": {"cluster": cluster},
        "typed_per_filter_config": {
            HEADER_MUTATION: typed(
                "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
                mutations={
                    "request_mutations": [
                        _set(MESH_METHOD, "%REQ(:METHOD)%"),
                        # Without the query: it may hold what the audit log must not.
                        _set(MESH_PATH, f"%PATH(NQ:PATH):{_PATH_LENGTH}%"),
                    ]
                },
            )
        },
    }


def _set(name: str, value: str) -> Node:
    return {"append": {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}


def _cors(config: EnvoyConfig) -> Node:
    return typed(
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=[{"exact": origin} for origin in config.cors_origins],
        allow_methods="GET, POST, DELETE, OPTIONS",
        allow_headers="authorization, content-type, x-request-id, x-api-key, x-otp, x-grpc-web, x-user-agent, "
        "grpc-timeout",
        expose_headers="x-request-id, x-moltbot-receipt, x-moltbot-model, retry-after, grpc-status, grpc-message",
        max_age="600",
    )

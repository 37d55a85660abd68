"""What Envoy writes down: a JSON line a request, and to the gateway what it refused by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moltbot_mesh.envoy.clusters import Node, cluster_names, typed
from moltbot_mesh.envoy.config import GATEWAY
from moltbot_mesh.headers import MESH_METHOD, MESH_PATH, TRACEPARENT

if TYPE_CHECKING:
    from moltbot_mesh.envoy.config import EnvoyConfig

REFUSALS = "refusals"
"""Name of the log that the gateway receives."""

_FIELDS: dict[str, str] = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID):128%",
    "trace": "%REQ(TRACEPARENT):64%",
    "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "method": f"%REQ({MESH_METHOD}?:METHOD):16%",
    "path": "%PATH(NQ:ORIG_OR_PATH):1024%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS_NUMBER%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "route": "%ROUTE_NAME%",
    "upstream": "%UPSTREAM_CLUSTER%",
    "request_bytes": "%BYTES_RECEIVED%",
    "response_bytes": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "upstream_first_byte_ms": "%RESPONSE_DURATION%",
    "user_agent": "%REQ(USER-AGENT):128%",
}

_TOO_LARGE = "SERVER: Received message larger than max"
# A request is the gateway's to record once the gateway has it. What Envoy answers without it has no `via_upstream`.
# A method that a service does not have (UNIMPLEMENTED, by Envoy also said of a 404) reaches none of its code, nor
# does a message that gRPC itself finds too large: only its text tells that from a quota's RESOURCE_EXHAUSTED.
# What the client or the gateway broke off was begun; so was what timed out, unless it never came whole (408).
_REFUSED_UNSEEN = (
    "(response.code_details != 'via_upstream' || (response.code == 200 && (response.grpc_status == 12"
    f" || response.headers['grpc-message'].startsWith('{_TOO_LARGE}'))))"
    " && !response.code_details.startsWith('downstream_')"
    " && !response.code_details.contains('remote_reset')"
    " && !(response.code_details.contains('timeout') && response.code != 408)"
)


def access_logs(config: EnvoyConfig) -> list[Node]:
    """All access logs."""
    found: list[Node] = []
    if config.access_log:
        found.append(_json_lines(config.access_log))
    if config.refusals_log:
        found.append(_refusals(config))
    return found


def _json_lines(where: str) -> Node:
    log_format: Node = {"json_format": _FIELDS, "omit_empty_values": True}
    if where == "stderr":
        return {
            "name": "envoy.access_loggers.stderr",
            "typed_config": typed("envoy.extensions.access_loggers.stream.v3.StderrAccessLog", log_format=log_format),
        }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": typed(
            "envoy.extensions.access_loggers.file.v3.FileAccessLog", path=where, log_format=log_format
        ),
    }


def _refusals(config: EnvoyConfig) -> Node:
    return {
        "name": "envoy.access_loggers.http_grpc",
        # The cheap question first: an expression costs 15 µs, and most requests succeed.
        "filter": {"and_filter": {"filters": [_failed(), _cel(_REFUSED_UNSEEN)]}},
        "typed_config": typed(
            "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            common_config={
                "log_name": REFUSALS,
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": cluster_names(config)[GATEWAY]}},
                "buffer_size_bytes": 0,  # refusals are rare and must not wait
            },
            additional_request_headers_to_log=[MESH_METHOD, MESH_PATH, TRACEPARENT],
            additional_response_headers_to_log=["grpc-status"],
        ),
    }


def _failed() -> Node:
    status = {"op": "GE", "value": {"default_value": 400, "runtime_key": "moltbot.refusals.status"}}
    grpc = {"grpc_status_filter": {"statuses": ["OK"], "exclude": True}}
    return {"or_filter": {"filters": [{"status_code_filter": {"comparison": status}}, grpc]}}


def _cel(expression: str) -> Node:
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": typed(
                "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=expression
            ),
        }
    }

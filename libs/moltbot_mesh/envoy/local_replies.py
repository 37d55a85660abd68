"""The answers that Envoy makes itself, in OpenAI's shape; gRPC clients get gRPC errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moltbot_mesh.headers import MESH_PATH

if TYPE_CHECKING:
    from moltbot_mesh.envoy.clusters import Node
    from moltbot_mesh.envoy.config import EnvoyConfig

_WHY = "(%RESPONSE_CODE_DETAILS%): %LOCAL_REPLY_BODY%"


def local_replies(config: EnvoyConfig) -> Node:
    """The `local_reply_config`; the first mapper that matches decides."""
    limit = config.body_limit_bytes
    known = (
        (400, "invalid_request_error", "malformed_request", f"the request is malformed {_WHY}"),
        (403, "invalid_request_error", "refused", "protocol upgrades are not taken; use HTTP, SSE or gRPC"),
        (404, "invalid_request_error", "not_found", "no such route; the API reference lists them"),
        (
            408,
            "invalid_request_error",
            "request_timeout",
            "the request did not arrive in time; send headers and body without long pauses",
        ),
        (
            413,
            "invalid_request_error",
            "request_too_large",
            f"the body is too large; at most {limit} bytes are taken",
        ),
        (426, "invalid_request_error", "http_version", "HTTP/1.1 or HTTP/2 is needed"),
        (
            431,
            "invalid_request_error",
            "headers_too_large",
            f"the headers are too large; at most {config.max_request_headers_kib} KiB are taken",
        ),
        (503, "server_error", "overloaded", "the service is busy or starting; try again in a moment"),
        (504, "server_error", "timeout", "the request's time ran out"),
    )
    mappers = [_for_grpc()]
    for status, kind, code, message in known:
        mappers.append({"filter": _status("EQ", status), "body_format_override": _body(message, kind, code)})
    server_error = _body(f"the request failed {_WHY}", "server_error", "internal_error")
    mappers.append({"filter": _status("GE", 500), "body_format_override": server_error})
    return {
        "mappers": mappers,
        "body_format": _body(f"the request was refused {_WHY}", "invalid_request_error", "refused"),
    }


def _for_grpc() -> Node:
    # The body becomes `grpc-message`. After transcoding a REST request looks like gRPC, but for the header of its path.
    grpc = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    rest = {"name": MESH_PATH, "present_match": True, "invert_match": True}
    return {
        "filter": {"and_filter": {"filters": [{"header_filter": {"header": header}} for header in (grpc, rest)]}},
        "body_format_override": {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}},
    }


def _status(op: str, status: int) -> Node:
    value = {"default_value": status, "runtime_key": f"moltbot.local_reply.{op.lower()}_{status}"}
    return {"status_code_filter": {"comparison": {"op": op, "value": value}}}


def _body(message: str, kind: str, code: str) -> Node:
    error = {"message": message, "type": kind, "param": None, "code": code}
    return {"json_format": {"error": error}, "content_type": "application/json"}

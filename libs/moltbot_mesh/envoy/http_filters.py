"""Envoy's HTTP filters, in the order a request meets them; an answer meets them in the reverse order.

1. header_mutation: the client's identity headers go, Envoy's own come; on the way out nothing internal is left.
2. lua: a request id that is none goes; on the way out the gateway's `x-mesh-status` becomes `:status`.
3. cors, if origins are allowed; grpc_web and grpc_json_transcoder, or for what is passed on by HTTP/1.1 buffer; router.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from moltbot_mesh.envoy.clusters import Node, typed
from moltbot_mesh.envoy.routes import HEADER_MUTATION, exposed_services
from moltbot_mesh.headers import PEER

if TYPE_CHECKING:
    from moltbot_mesh.envoy.config import EnvoyConfig

_CLIENT_MAY_NOT_SEND = ("x-mesh-", "x-moltbot-", "x-envoy-")
_CLIENT_MAY_NOT_SEE = ("x-mesh-", "x-envoy-")
_RESPONSE_BYTES = 32 << 20


def http_filters(config: EnvoyConfig) -> list[Node]:
    """All HTTP filters."""
    filters = [
        _header_mutation(),
        _filter("lua", "lua.v3.Lua", default_source_code={"inline_string": _lua()}),
    ]
    if config.cors_origins:
        filters.append(_filter("cors", "cors.v3.Cors"))
    filters += [
        _filter("grpc_web", "grpc_web.v3.GrpcWeb"),
        _transcoder(config),
        *([_buffer(config)] if config.http_upstream else []),
        _filter("router", "router.v3.Router", suppress_envoy_headers=True),
    ]
    return filters


def _filter(name: str, message: str, **fields: object) -> Node:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": typed(f"envoy.extensions.filters.http.{message}", **fields),
    }


def _lua() -> str:
    return resources.files("moltbot_mesh.envoy").joinpath("status.lua").read_text(encoding="utf-8")


def _header_mutation() -> Node:
    return {
        "name": HEADER_MUTATION,
        "typed_config": typed(
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            mutations={
                "request_mutations": [
                    *(_remove(prefix) for prefix in _CLIENT_MAY_NOT_SEND),
                    {
                        "append": {
                            "header": {"key": PEER, "value": "%DOWNSTREAM_REMOTE_ADDRESS%"},
                            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                        }
                    },
                ],
                "response_mutations": [_remove(prefix) for prefix in _CLIENT_MAY_NOT_SEE],
            },
        ),
    }


def _remove(prefix: str) -> Node:
    return {"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": True}}}


def _buffer(config: EnvoyConfig) -> Node:
    """Off, but for routes that ask for it: the gateway is sent whole bodies, whatever pace the client has."""
    limit = config.body_limit_bytes
    return {**_filter("buffer", "buffer.v3.Buffer", max_request_bytes=limit), "disabled": True}


def _transcoder(config: EnvoyConfig) -> Node:
    return _filter(
        "grpc_json_transcoder",
        "grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor=str(config.descriptor_set),
        services=exposed_services(config),
        convert_grpc_status=True,
        # No request goes on untranscoded: a gRPC server would answer it without a record.
        request_validation_options={"reject_unknown_method": True},
        # OpenAI's clients may add parameters that only OpenAI knows.
        ignore_unknown_query_parameters=True,
        # A model's id may have slashes, which clients write as %2F.
        url_unescape_spec="ALL_CHARACTERS",
        print_options={"always_print_primitive_fields": True},
        max_request_body_size=config.body_limit_bytes,
        max_response_body_size=_RESPONSE_BYTES,
    )

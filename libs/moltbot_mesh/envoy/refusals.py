"""What no service has seen, because Envoy refused it or no such method is, read from Envoy's access log service.

Envoy sends each such request once, to `AccessLogService.StreamAccessLogs` of the gateway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot.third_party.envoy.v3 import accesslog_pb2

from moltbot_mesh.headers import MESH_METHOD, MESH_PATH, TRACEPARENT

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_TEXT = 1024


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """A request that no service of the mesh has seen."""

    method: str
    """`POST`; empty if the request was too malformed to have one."""
    path: str
    """As the client wrote it, without query; a gRPC method for a gRPC client."""
    request_id: str
    """May be empty for malformed requests."""
    http_status: int
    """What was answered; 200 for gRPC clients, whose error is in the trailers."""
    details: str
    """Envoy's own word for the reason (`request_payload_too_large`)."""
    peer: str
    """Address of the client, without port."""
    start_time_ns: int
    """When the request began, in Unix nanoseconds; 0 if not told."""
    traceparent: str
    """The client's W3C trace context, unchecked; empty if there was none."""
    grpc_status: int | None = None
    """Of the answer to a gRPC client."""


def parse_entry(entry: accesslog_pb2.HTTPAccessLogEntry) -> RefusedRequest:
    """Read one entry."""
    request, common = entry.request, entry.common_properties
    headers = request.request_headers
    grpc_status = entry.response.response_headers.get("grpc-status", "")
    method = headers.get(MESH_METHOD, "") or _method_name(request.request_method)
    path = headers.get(MESH_PATH, "") or request.original_path or request.path
    return RefusedRequest(
        method=method[:_LONGEST_TEXT],
        path=path.partition("?")[0][:_LONGEST_TEXT],
        request_id=request.request_id[:_LONGEST_TEXT],
        http_status=entry.response.response_code.value,
        details=entry.response.response_code_details[:_LONGEST_TEXT],
        peer=common.downstream_remote_address.socket_address.address,
        start_time_ns=common.start_time.ToNanoseconds(),
        traceparent=headers.get(TRACEPARENT, "")[:_LONGEST_TEXT],
        grpc_status=int(grpc_status) if grpc_status.isdigit() else None,
    )


def parse_message(message: accesslog_pb2.StreamAccessLogsMessage) -> Iterator[RefusedRequest]:
    """Read all entries of one message of the stream."""
    return map(parse_entry, message.http_logs.log_entry)


def _method_name(number: int) -> str:
    if number == accesslog_pb2.METHOD_UNSPECIFIED:
        return ""
    try:
        return accesslog_pb2.RequestMethod.Name(accesslog_pb2.RequestMethod.ValueType(number))
    except ValueError:
        return ""

"""Envoy's access log service: requests that no service has seen end in the audit log too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moltbot.third_party.envoy.v3 import accesslog_pb2, accesslog_pb2_grpc

from moltbot_gateway.ask import Caller
from moltbot_gateway.exchange import Exchange
from moltbot_mesh.call import ANONYMOUS, TraceContext
from moltbot_mesh.envoy.refusals import RefusedRequest, parse_message
from moltbot_mesh.uuid7 import uuid7, uuid_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moltbot_gateway.recorder import Recorder


_RESOURCE_EXHAUSTED, _UNIMPLEMENTED, _UNAVAILABLE = 8, 12, 14
"""Of gRPC; see https://github.com/grpc/grpc/blob/master/doc/statuscodes.md."""


class RefusalsServicer(accesslog_pb2_grpc.AccessLogServiceServicer):
    """Records what no service has seen.

    Args:
        recorder: Takes the records.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def StreamAccessLogs(  # noqa: N802 - gRPC's name
        self,
        request_iterator: AsyncIterator[accesslog_pb2.StreamAccessLogsMessage],
        context: Any,  # noqa: ARG002 - gRPC's shape
    ) -> accesslog_pb2.StreamAccessLogsResponse:
        """Take Envoy's entries until it closes the stream."""
        async for message in request_iterator:
            for refused in parse_message(message):
                self._recorder.record(_exchange(refused))
        return accesslog_pb2.StreamAccessLogsResponse()


def _exchange(refused: RefusedRequest) -> Exchange:
    trace = TraceContext.parse(refused.traceparent) or TraceContext.new(sampled=False)
    request_id = refused.request_id[:128] or uuid_text(uuid7())
    asked = f"{refused.method} {refused.path}".strip() if refused.grpc_status is None else refused.path
    action = asked[:256] or "malformed request"
    exchange = Exchange(Caller(ANONYMOUS, trace, request_id, action, refused.peer))
    exchange.reason = _reason(refused)
    exchange.outcome = "failed" if exchange.reason == "UNAVAILABLE" else "refused"
    exchange.http_status = refused.http_status if refused.grpc_status is None else 0
    if refused.start_time_ns:
        exchange.started_ns = refused.start_time_ns
    return exchange


def _reason(refused: RefusedRequest) -> str:
    if refused.grpc_status == _UNIMPLEMENTED:
        return "ROUTE_NOT_FOUND"
    if refused.http_status in (413, 431) or refused.grpc_status == _RESOURCE_EXHAUSTED:
        return "REQUEST_TOO_LARGE"
    return "UNAVAILABLE" if refused.http_status >= 500 or refused.grpc_status == _UNAVAILABLE else "MALFORMED_BODY"

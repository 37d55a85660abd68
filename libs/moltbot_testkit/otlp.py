"""An OpenTelemetry collector for tests: takes spans by OTLP/gRPC and by OTLP/HTTP in JSON, and keeps them."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class SeenSpan:
    """A span as it came."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Hexadecimal, as the others; empty if it has none."""
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: tuple[str, ...]


class Collector:
    """Serves while it is entered."""

    def __init__(self) -> None:
        self.spans: list[SeenSpan] = []
        self._grpc = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Servicer(self), self._grpc)
        port = self._grpc.add_insecure_port("127.0.0.1:0")
        self.grpc_endpoint = f"http://127.0.0.1:{port}"
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http_endpoint = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def take(self, tree: dict[str, Any]) -> None:
        """Keep the spans of one export, a tree as OTLP's JSON has it."""
        for resource in tree.get("resourceSpans", ()):
            service = str(_values(resource["resource"]).get("service.name", ""))
            for span in (span for scope in resource["scopeSpans"] for span in scope["spans"]):
                self.spans.append(
                    SeenSpan(
                        service,
                        span["name"],
                        span["traceId"],
                        span["spanId"],
                        span.get("parentSpanId", ""),
                        int(span["startTimeUnixNano"]),
                        int(span["endTimeUnixNano"]),
                        _values(span),
                        tuple(event["name"] for event in span.get("events", ())),
                    )
                )

    def wait_for(self, what: Callable[[SeenSpan], bool], timeout_s: float = 30.0) -> SeenSpan:
        """The first span that fits.

        Raises:
            AssertionError: None came in time.
        """
        limit = time.monotonic() + timeout_s
        while True:
            found = next((span for span in self.spans if what(span)), None)
            if found is not None:
                return found
            if time.monotonic() > limit:
                raise AssertionError(f"no such span among {[(span.service, span.name) for span in self.spans]}")
            time.sleep(_POLL_S)

    def __enter__(self) -> Self:
        self._grpc.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._grpc.stop(0).wait()
        self._http.shutdown()
        self._http.server_close()


class _Servicer(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - gRPC's
        for resource in request.resource_spans:
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                ids = {"traceId": span.trace_id, "spanId": span.span_id, "parentSpanId": span.parent_span_id}
                times = {"startTimeUnixNano": span.start_time_unix_nano, "endTimeUnixNano": span.end_time_unix_nano}
                # Protobuf's own JSON has ids in base64, OTLP's in hexadecimal.
                tree = MessageToDict(span) | {key: value.hex() for key, value in ids.items()} | times
                scopes = [{"spans": [tree]}]
                found = {"resource": MessageToDict(resource.resource), "scopeSpans": scopes}
                self._collector.take({"resourceSpans": [found]})
        return trace_service_pb2.ExportTraceServiceResponse()


def _handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/json"
            if known:
                collector.take(json.loads(body))
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
            pass

    return Handler


def _values(tree: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: _value(one["value"]) for one in tree.get("attributes", ())}


def _value(value: dict[str, Any]) -> Any:
    ((kind, found),) = value.items()
    if kind == "arrayValue":
        return [_value(one) for one in found.get("values", ())]
    return int(found) if kind == "intValue" else found

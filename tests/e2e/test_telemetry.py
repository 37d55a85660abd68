"""One trace over all parts: the client's `traceparent` is kept, spans reach an OTLP collector with GenAI attributes."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx2 as httpx
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from moltbot_testkit.background import in_background
from moltbot_testkit.mesh import DaemonMesh
from moltbot_testkit.upstreams import FakeOpenAI, Script

pytestmark = pytest.mark.timeout(120)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent: (service, span)."""

    def __init__(self) -> None:
        self.spans = []

    def Export(self, request, context):  # noqa: N802
        for resource in request.resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector():
    server, found = grpc.server(ThreadPoolExecutor(2)), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(found, server)
    found.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield found
    server.stop(0).wait()


def values(span):
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_a_trace_joins_the_client_the_mesh_and_the_upstream(collector):
    directory, upstream = Path(tempfile.mkdtemp(prefix="moltbot-otlp-")), FakeOpenAI()
    trace, parent, prompt = uuid.uuid4().hex, "00f067aa0ba902b7", "a secret of mine"
    receipts = []
    with in_background(upstream) as url:
        manifest = {"id": "echo", "type": "text-generation", "provider": "openai", "endpoint": url}
        (directory / "models.yaml").write_text(yaml.safe_dump({"models": [manifest]}))
        settings = {
            "inference": {"engine": "none"},
            "router": {"models": [str(directory / "models.yaml")]},
            "telemetry": {"otlp_endpoint": f"http://127.0.0.1:{collector.port}", "sample_ratio": 0},
        }
        with DaemonMesh(directory, settings) as mesh:
            call = (("calculator", '{"expression": "6*7"}'),)
            upstream.queue = [Script(chunks=(), tool_calls=call, finish_reason="tool_calls"), Script()]
            for flags in ("01", "00"):
                answer = httpx.post(
                    f"{mesh.url}/v1/chat/completions",
                    json={
                        "model": "echo",
                        "messages": [{"role": "user", "content": prompt}],
                        "moltbot": {"tools": ["calculator"]},
                    },
                    headers={
                        "Authorization": f"Bearer {mesh.key('traced')}",
                        "traceparent": f"00-{trace if flags == '01' else uuid.uuid4().hex}-{parent}-{flags}",
                    },
                    trust_env=False,
                    timeout=30,
                )
                assert answer.status_code == 200, answer.text
                receipts.append(answer.headers["x-moltbot-receipt"])
            sent = upstream.seen[0].headers["traceparent"]
        # The mesh has stopped: everything was sent.
    limit = time.monotonic() + 10
    while not collector.spans:
        assert time.monotonic() < limit
        time.sleep(0.05)
    spans = {span.name: (service, span) for service, span in collector.spans}
    assert {span.trace_id.hex() for _, span in collector.spans} == {trace}
    assert sent.split("-")[1] == trace

    service, served = spans["moltbot.gateway.v1.OpenAIService/ChatCompletions"]
    assert service == "moltbot-gateway"
    assert served.parent_span_id.hex() == parent
    models = [span for _, span in collector.spans if span.name == "chat echo"]
    assert len(models) == 2
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "echo",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
        "moltbot.tenant": "traced",
        "moltbot.audit_id": receipts[0],
    }
    assert values(models[1]).items() >= expected.items()
    _, tool = spans["execute_tool calculator"]
    for span in (*models, tool):
        assert span.parent_span_id == served.span_id
        assert served.start_time_unix_nano - 5_000_000 <= span.start_time_unix_nano <= span.end_time_unix_nano
    # The router and the tool service take part in the same trace.
    assert {"moltbot-router", "moltbot-tool"} <= {service for service, _ in collector.spans}
    assert prompt not in str(collector.spans)
    shutil.rmtree(directory)

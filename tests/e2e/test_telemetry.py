"""One trace over all parts: the client's `traceparent` is kept, spans reach an OTLP collector with GenAI attributes."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2 as httpx
import pytest
import yaml

from moltbot_testkit.background import in_background
from moltbot_testkit.mesh import DaemonMesh, ServicesMesh
from moltbot_testkit.otlp import Collector
from moltbot_testkit.upstreams import FakeOpenAI, Script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moltbot_testkit.mesh import Mesh
    from moltbot_testkit.otlp import SeenSpan

pytestmark = pytest.mark.timeout(180)
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


@pytest.fixture
def directory() -> Iterator[Path]:
    found = Path(tempfile.mkdtemp(prefix="moltbot-otlp-"))
    yield found
    shutil.rmtree(found)


def post(mesh: Mesh, path: str, body: dict[str, object], trace: str, flags: str = "01") -> httpx.Response:
    answer = httpx.post(
        f"{mesh.url}/v1/{path}",
        json=body,
        headers={"Authorization": f"Bearer {mesh.key('traced')}", "traceparent": f"00-{trace}-{PARENT}-{flags}"},
        trust_env=False,
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    return answer


def chain(spans: list[SeenSpan], span: SeenSpan) -> list[str]:
    """The services from the outermost span to this one."""
    by_id = {one.span_id: one for one in spans}
    found: list[str] = []
    here: SeenSpan | None = span
    while here is not None:
        found.insert(0, here.service)
        last, here = here, by_id.get(here.parent_id)
    assert last.parent_id == PARENT
    return list(dict.fromkeys(found))


def test_a_trace_joins_the_client_the_mesh_and_the_upstream(collector: Collector, directory: Path) -> None:
    upstream = FakeOpenAI()
    trace, prompt = uuid.uuid4().hex, "a secret of mine"
    receipts: list[str] = []
    with in_background(upstream) as url:
        manifest = {"id": "echo", "type": "text-generation", "provider": "openai", "endpoint": url}
        (directory / "models.yaml").write_text(yaml.safe_dump({"models": [manifest]}))
        settings = {
            "inference": {"engine": "none"},
            "router": {"models": [str(directory / "models.yaml")]},
            "telemetry": {"otlp_endpoint": collector.grpc_endpoint, "sample_ratio": 0},
        }
        with DaemonMesh(directory, settings) as mesh:
            call = (("calculator", '{"expression": "6*7"}'),)
            upstream.queue = [Script(chunks=(), tool_calls=call, finish_reason="tool_calls"), Script()]
            messages = [{"role": "user", "content": prompt}]
            body = {"model": "echo", "messages": messages, "moltbot": {"tools": ["calculator"]}}
            for flags in ("01", "00"):
                asked = trace if flags == "01" else uuid.uuid4().hex
                receipts.append(post(mesh, "chat/completions", body, asked, flags).headers["x-moltbot-receipt"])
            sent = upstream.seen[0].headers["traceparent"]
            unsampled = upstream.seen[-1].headers["traceparent"]
            collector.wait_for(lambda span: span.service == "moltbot-envoy")  # which sends nothing at its end
        # The mesh has stopped: everything was sent.
    served = collector.wait_for(lambda span: span.name == "moltbot.gateway.v1.OpenAIService/ChatCompletions")
    assert {span.trace_id for span in collector.spans} == {trace}
    assert unsampled.endswith("-00")

    assert served.service == "moltbot-gateway"
    models = [span for span in collector.spans if span.name == "chat echo"]
    assert len(models) == 2
    assert sent == f"00-{trace}-{models[0].span_id}-01"
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "echo",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
        "moltbot.tenant": "traced",
        "moltbot.audit_id": receipts[0],
    }
    assert models[1].attributes.items() >= expected.items()
    (tool,) = (span for span in collector.spans if span.name == "execute_tool calculator")
    for span in (*models, tool):
        assert span.parent_id == served.span_id
        assert served.start_ns - 5_000_000 <= span.start_ns <= span.end_ns
        assert chain(collector.spans, span) == ["moltbot-envoy", "moltbot-gateway"]
    # The router and the tool service take part in the same trace.
    assert {"moltbot-router", "moltbot-tool"} <= {span.service for span in collector.spans}
    assert prompt not in str(collector.spans)


@pytest.mark.parametrize("shape", [DaemonMesh, ServicesMesh], ids=["daemon", "services"])
def test_a_trace_goes_from_envoy_through_the_gateway_into_triton(
    shape: type[Mesh], collector: Collector, directory: Path
) -> None:
    settings = {
        "inference": {"engine": "triton", "kv_cache_mib": 16, "threads": 1},
        "telemetry": {
            "otlp_endpoint": collector.grpc_endpoint,
            "otlp_http_endpoint": collector.http_endpoint,
            "sample_ratio": 0,
        },
    }
    chat = {"model": "moltbot-tiny", "messages": [{"role": "user", "content": "What is 12 times 7?"}], "max_tokens": 8}
    vectors = {"model": "minilm-l6", "input": ["a", "b"]}
    kinds = {"chat/completions": chat, "embeddings": vectors}
    with shape(directory, settings) as mesh:
        post(mesh, "chat/completions", chat, uuid.uuid4().hex, "00")
        post(mesh, "embeddings", vectors, uuid.uuid4().hex, "00")
        # Several of each: Triton 2.51 does not see the context of each.
        traces = {path: [uuid.uuid4().hex for _ in range(6)] for path in kinds}
        for path, asked in traces.items():
            for trace in asked:
                post(mesh, path, kinds[path], trace)
        # Triton and Envoy send while they run; what is left at their end is lost.
        inferred = [
            collector.wait_for(lambda span, of=of: span.name == "InferRequest" and span.trace_id in of)
            for of in traces.values()
        ]
        for span in inferred:
            collector.wait_for(lambda one, of=span.trace_id: (one.service, one.trace_id) == ("moltbot-envoy", of))
    known = {trace for asked in traces.values() for trace in asked}
    assert [span for span in collector.spans if span.trace_id not in known] == []
    for span, name in zip(inferred, ("chat moltbot-tiny", "embeddings minilm-l6"), strict=True):
        (asked,) = (one for one in collector.spans if (one.name, one.trace_id) == (name, span.trace_id))
        assert span.parent_id == asked.span_id
        (computed,) = (one for one in collector.spans if (one.name, one.trace_id) == ("compute", span.trace_id))
        assert {"COMPUTE_START", "COMPUTE_END"} <= set(computed.events)
        assert chain(collector.spans, computed) == ["moltbot-envoy", "moltbot-gateway", "moltbot-triton"]
    asked = next(one for one in collector.spans if one.name == "chat moltbot-tiny")
    times = [asked.attributes[f"gen_ai.latency.time_in_{part}"] for part in ("queue", "model_prefill", "model_decode")]
    assert all(time_s >= 0 for time_s in times)
    assert 0 < sum(times) <= (asked.end_ns - asked.start_ns) / 1e9
    assert "times 7" not in str(collector.spans)

"""Spans of the calls that one request caused, made when it has ended: a request that is not sampled pays nothing.

Source: OpenTelemetry semantic conventions for generative AI, client spans; `gen_ai.latency.*` as vLLM names them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moltbot_gateway.exchange import Attempt, Exchange
    from moltbot_mesh.telemetry import Telemetry


def record_spans(telemetry: Telemetry, exchange: Exchange) -> None:
    """Record each call to a model and to a tool. Prompts, answers and arguments never stand in a span."""
    trace = exchange.caller.trace
    if not trace.sampled:
        return
    for attempt in exchange.attempts:
        name = f"{attempt.operation} {attempt.model}"
        error = "" if attempt.outcome == "success" else attempt.reason
        times = attempt.started_ns, attempt.ended_ns
        given = _of_model(exchange, attempt)
        telemetry.record_span(name, trace, *times, given, error=error, client=True, span_id=attempt.span_id)
    for run in exchange.tool_runs:
        tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": run.tool, "gen_ai.tool.type": "function"}
        error = "" if run.outcome == "success" else run.reason
        telemetry.record_span(f"execute_tool {run.tool}", trace, run.started_ns, run.ended_ns, tool, error=error)


def _of_model(exchange: Exchange, attempt: Attempt) -> dict[str, Any]:
    found: dict[str, Any] = {
        "gen_ai.operation.name": attempt.operation,
        "gen_ai.provider.name": "moltbot",
        "gen_ai.request.model": attempt.model,
        "moltbot.tenant": exchange.tenant,
        "moltbot.audit_id": exchange.audit_id,
    }
    if attempt.outcome == "success":
        found["gen_ai.response.model"] = attempt.model
        found["gen_ai.usage.input_tokens"] = attempt.usage.prompt_tokens
        if attempt.operation in {"chat", "text_completion"}:
            found["gen_ai.usage.output_tokens"] = attempt.usage.completion_tokens
            found["gen_ai.response.finish_reasons"] = (attempt.finish_reason,)
            found["gen_ai.response.time_to_first_chunk"] = attempt.first_token_us / 1e6
            if attempt.usage.cached_tokens:
                found["gen_ai.usage.cache_read.input_tokens"] = attempt.usage.cached_tokens
    if attempt.timing is not None:
        found["gen_ai.latency.time_in_queue"] = attempt.timing.queue_s
        found["gen_ai.latency.time_in_model_prefill"] = attempt.timing.prefill_s
        found["gen_ai.latency.time_in_model_decode"] = attempt.timing.decode_s
    if exchange.session:
        found["gen_ai.conversation.id"] = exchange.session
    return found

"""The span of a sampled call."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moltbot_mesh import call as calls
from moltbot_mesh.call import TraceContext

if TYPE_CHECKING:
    from moltbot_mesh.call import Call
    from moltbot_mesh.telemetry import Telemetry


class CallSpan:
    """A span around a sampled call; the call's trace then names that span."""

    def __init__(self, telemetry: Telemetry, call: Call) -> None:
        self._call = call
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": call.method.strip("/").partition("/")[0],
            "rpc.method": call.method.rpartition("/")[2],
            "moltbot.tenant": call.principal.tenant,
        }
        self._manager = telemetry.span(call.method.lstrip("/"), call.trace, attributes)

    def __enter__(self) -> Call:
        span = self._manager.__enter__()
        context = span.get_span_context()
        call = self._call
        if context.is_valid:
            trace = TraceContext(call.trace.trace_id, context.span_id.to_bytes(8), sampled=True)
            call = replace(call, trace=trace)
            calls.enter_call(call)
        return call

    def __exit__(self, *exc: object) -> None:
        self._manager.__exit__(*exc)  # type: ignore[arg-type]

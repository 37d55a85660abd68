"""One method as it is served: what happens around each of its calls, in order."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
import protovalidate
import structlog

from moltbot_mesh import call as calls
from moltbot_mesh.body_answers import answers_in_bodies
from moltbot_mesh.call_entry import CallEntry
from moltbot_mesh.call_span import CallSpan
from moltbot_mesh.errors import HTTP_STATUS, DeadlineExceeded, Internal, MoltbotError
from moltbot_mesh.errors_wire import STATUS_DETAILS, status_code, to_status
from moltbot_mesh.module import Access
from moltbot_mesh.request_validation import check

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from moltbot_mesh.audit.event_words import Outcome
    from moltbot_mesh.interceptors import Surroundings

    Unary = Callable[[Any, Any], Awaitable[Any]]
    Streaming = Callable[[Any, Any], AsyncIterator[Any]]

log = structlog.get_logger("moltbot.rpc")


class ServedMethod:
    """One method and what happens around it.

    Args:
        method: Full name.
        access: Who may call it.
        around: What all methods of the service share.
        recorded: Whether the servicer records its calls itself.
    """

    def __init__(self, method: str, access: Access, around: Surroundings, *, recorded: bool = False) -> None:
        self._method = method
        self.answers_in_bodies = answers_in_bodies(method)
        self._entry = CallEntry(method, access, around)
        self._around = around
        self._calls = around.calls
        # A public method's servicer knows its callers, and records them.
        self._recorded = recorded or access is Access.PUBLIC
        self._seconds: dict[str, Any] = {}
        self._validator = protovalidate.Validator()

    def unary(self, inner: Unary, *, validate: bool) -> Unary:
        """Wrap a handler with one answer."""

        async def handle(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            code = "OK"
            begun = False
            try:
                call = await self._entry.enter(context)
                if validate:
                    check(request, self._validator)
                begun = True
                if call.trace.sampled:
                    with CallSpan(self._around.telemetry, call):
                        answer = await inner(request, context)
                else:
                    answer = await inner(request, context)
            except Exception as error:
                code = self._code(error)
                self._record("failed", started, error, begun=begun)
                await self._refuse(error, context)
                raise
            except asyncio.CancelledError:
                code = "CANCELLED"
                self._record("cancelled", started, None, begun=begun)
                raise
            else:
                self._record("success", started, None, begun=begun)
                return answer
            finally:
                self._observe(code, started)

        return handle

    def streaming(self, inner: Streaming, *, validate: bool) -> Streaming:
        """Wrap a handler with a stream of answers."""

        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            started = time.perf_counter()
            code = "OK"
            answers: Any = None
            begun = False
            try:
                call = await self._entry.enter(context)
                if validate:
                    check(request, self._validator)
                begun = True
                answers = inner(request, context)
                if call.trace.sampled:
                    with CallSpan(self._around.telemetry, call):
                        async for answer in answers:
                            yield answer
                else:
                    async for answer in answers:
                        yield answer
                self._record("success", started, None, begun=begun)
            except Exception as error:
                code = self._code(error)
                self._record("failed", started, error, begun=begun)
                await self._refuse(error, context)
                raise
            except (asyncio.CancelledError, GeneratorExit):
                code = "CANCELLED"
                self._record("cancelled", started, None, begun=begun)
                raise
            finally:
                if answers is not None:
                    await answers.aclose()
                self._observe(code, started)

        return handle

    def _record(self, outcome: Outcome, started_s: float, error: Exception | None, *, begun: bool) -> None:
        """Record a client's call, before its answer goes out, unless the servicer did."""
        if self._calls is None or (begun and self._recorded):
            return
        call = calls.current_call()
        if call is None or call.principal.kind == "service":
            return
        status, reason = 200, ""
        if isinstance(error, MoltbotError):
            status, reason = HTTP_STATUS[error.code], error.reason
        elif error is not None:
            timed_out = isinstance(error, TimeoutError)
            status, reason = (504, "DEADLINE_EXCEEDED") if timed_out else (500, "INTERNAL")
        if outcome == "cancelled":
            status, reason = 499, "CANCELLED"
        if outcome == "failed" and status < 500:
            outcome = "refused"
        duration_us = int((time.perf_counter() - started_s) * 1e6)
        shown = status if call.action else 0
        self._calls.record(self._around.telemetry.service, call, outcome, reason, shown, duration_us)

    def _code(self, error: Exception) -> str:
        if isinstance(error, MoltbotError):
            return status_code(error).name
        if isinstance(error, grpc.aio.AbortError):
            return "ABORTED_BY_SERVICER"
        return "DEADLINE_EXCEEDED" if isinstance(error, TimeoutError) else "INTERNAL"

    async def _refuse(self, error: Exception, context: Any) -> None:
        """End the call with the error's status; an abort by the servicer itself passes."""
        if isinstance(error, grpc.aio.AbortError):
            return
        current = calls.current_call()
        request_id = current.request_id if current else ""
        shown = error
        if isinstance(error, TimeoutError):
            shown = DeadlineExceeded(f"{self._method}: the deadline passed")
        elif not isinstance(error, MoltbotError):
            log.error("call failed", method=self._method, request_id=request_id, exc_info=error)
            shown = Internal(
                f"{self._method}: internal error; the log of {self._around.telemetry.service} has the rest"
            )
        assert isinstance(shown, MoltbotError)
        status = to_status(shown, request_id)
        trailing = ((STATUS_DETAILS, status.SerializeToString()),)
        await context.abort(status_code(shown), shown.message, trailing_metadata=trailing)

    def _observe(self, code: str, started_s: float) -> None:
        child = self._seconds.get(code)
        if child is None:
            telemetry = self._around.telemetry
            child = telemetry.metrics.rpc_seconds.labels(telemetry.service, self._method, code)
            self._seconds[code] = child
        child.observe(time.perf_counter() - started_s)

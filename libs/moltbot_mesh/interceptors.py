"""What happens around every served call, whichever channel it came by.

Identity, access, deadline, validation, trace, metrics and errors.

The servicer's handlers are wrapped once, when they are registered, so a served call pays for one function and not for a
chain of interceptor objects, and the in-process channel runs exactly what the server runs.

Source: google.rpc.Status over `grpc-status-details-bin`; grpc.aio's AbortError is an `Exception` and passes through.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import grpc
import protovalidate
import structlog
from google.api.httpbody_pb2 import HttpBody

from moltbot_mesh import call as calls
from moltbot_mesh.body_answers import BodyHandler, answers_in_bodies, whole
from moltbot_mesh.call import ANONYMOUS, Call, Principal, TraceContext, address
from moltbot_mesh.errors import (
    HTTP_STATUS,
    DeadlineExceeded,
    FieldViolation,
    Internal,
    InvalidArgument,
    MoltbotError,
    PermissionDenied,
    Unauthenticated,
)
from moltbot_mesh.errors_wire import STATUS_DETAILS, status_code, to_status
from moltbot_mesh.headers import (
    AUTHORIZATION,
    MESH_METHOD,
    MESH_PATH,
    MESH_TOKEN,
    PEER,
    REQUEST_ID,
    SUBJECT,
    TENANT,
    TRACEPARENT,
)
from moltbot_mesh.module import Access
from moltbot_mesh.one_request import Unreadable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from google.protobuf.message import Message

    from moltbot_mesh.api_keys import ApiKeys
    from moltbot_mesh.audit.calls import CallRecords
    from moltbot_mesh.audit.event_words import Outcome
    from moltbot_mesh.identity import MeshIdentity
    from moltbot_mesh.module import Registration
    from moltbot_mesh.telemetry import Telemetry

    _Unary = Callable[[Any, Any], Awaitable[Any]]
    _Streaming = Callable[[Any, Any], AsyncIterator[Any]]

log = structlog.get_logger("moltbot.rpc")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the wrappers of one service share."""

    telemetry: Telemetry
    identity: MeshIdentity
    api_keys: ApiKeys | None
    """`None`: no API key opens anything here."""
    calls: CallRecords | None = None
    """Record what clients call; `None`: nothing is recorded."""


class HandlerTable:
    """Collects the handlers that a generated `add_…Servicer_to_server` registers, by full method name."""

    def __init__(self) -> None:
        self.handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: object) -> None:
        """Taken by `add_registered_method_handlers` already."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Take the handlers of one service."""
        for name, handler in handlers.items():
            self.handlers[f"/{service}/{name}"] = handler


def wrapped_handlers(registration: Registration, around: Surroundings) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """The handlers of a servicer with everything around them, by full method name.

    Raises:
        ValueError: `access` names a method that the servicer does not have.
    """
    table = HandlerTable()
    registration.add(registration.servicer, table)
    unknown = set(registration.access) - {method.rpartition("/")[2] for method in table.handlers}
    if unknown:
        raise ValueError(f"access names methods that do not exist: {sorted(unknown)}")
    wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method, handler in table.handlers.items():
        access = registration.access.get(method.rpartition("/")[2], Access.SERVICE)
        recorded = method.rpartition("/")[2] in registration.recorded
        wrapped[method] = _wrap(handler, _Served(method, access, around, recorded=recorded))
    return wrapped


def _wrap(handler: Any, served: _Served) -> grpc.RpcMethodHandler[Any, Any]:
    kinds = (handler.request_streaming, handler.response_streaming)
    inner = {
        (False, False): handler.unary_unary,
        (False, True): handler.unary_stream,
        (True, False): handler.stream_unary,
        (True, True): handler.stream_stream,
    }[kinds]
    make, behaviour = {
        (False, False): (grpc.unary_unary_rpc_method_handler, served.unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, served.streaming),
        (True, False): (grpc.stream_unary_rpc_method_handler, served.unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, served.streaming),
    }[kinds]
    if kinds == (False, True) and served.answers_in_bodies:
        streaming = served.streaming(inner, validate=True)
        return cast("Any", BodyHandler(handler.request_deserializer, whole(streaming), streaming))
    wrapped = behaviour(inner, validate=not handler.request_streaming)
    return cast("Any", make)(wrapped, handler.request_deserializer, handler.response_serializer)


class _Served:
    """One method and what happens around it."""

    def __init__(self, method: str, access: Access, around: Surroundings, *, recorded: bool = False) -> None:
        self._method = method
        self.answers_in_bodies = answers_in_bodies(method)
        self._access = access
        self._around = around
        self._calls = around.calls
        # A public method's servicer knows its callers, and records them.
        self._recorded = recorded or access is Access.PUBLIC
        self._seconds: dict[str, Any] = {}
        self._validator = protovalidate.Validator()

    def unary(self, inner: _Unary, *, validate: bool) -> _Unary:
        """Wrap a handler with one answer."""

        async def handle(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            code = "OK"
            begun = False
            try:
                call = await self._enter(context)
                if validate:
                    self._validate(request)
                begun = True
                if call.trace.sampled:
                    with _SpanOfCall(self._around.telemetry, call):
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

    def streaming(self, inner: _Streaming, *, validate: bool) -> _Streaming:
        """Wrap a handler with a stream of answers."""

        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            started = time.perf_counter()
            code = "OK"
            answers: Any = None
            begun = False
            try:
                call = await self._enter(context)
                if validate:
                    self._validate(request)
                begun = True
                answers = inner(request, context)
                if call.trace.sampled:
                    with _SpanOfCall(self._around.telemetry, call):
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

    async def _enter(self, context: Any) -> Call:
        """Read metadata, recognise the caller, check access and make the call current."""
        metadata: dict[str, str] = {}
        for key, value in context.invocation_metadata() or ():
            if key in _READ:
                metadata[key] = value
        trace = TraceContext.parse(metadata.get(TRACEPARENT))
        if trace is None:
            trace = TraceContext.new(sampled=self._around.telemetry.sample())
        remaining_s = context.time_remaining()
        call = Call(
            self._method,
            ANONYMOUS,
            None if remaining_s is None or remaining_s > _NO_DEADLINE_S else time.monotonic() + remaining_s,
            trace,
            metadata.get(REQUEST_ID, ""),
            address(metadata.get(PEER, "")),
            f"{metadata.get(MESH_METHOD, '')} {metadata[MESH_PATH].partition('?')[0]}" if MESH_PATH in metadata else "",
        )
        calls.enter_call(call)
        principal = await self._principal(metadata)
        if principal is not ANONYMOUS:
            call = call.by(principal)
            calls.enter_call(call)
            if self._calls is not None and principal.kind != "service":
                self._calls.admit()
        return call

    async def _principal(self, metadata: Mapping[str, str]) -> Principal:
        token = metadata.get(MESH_TOKEN)
        if token is not None:
            service = self._around.identity.verify(token)
            return Principal("service", service, metadata.get(TENANT, ""), _SERVICE_ROLES)
        if self._access is Access.PUBLIC:
            return ANONYMOUS
        authorization = metadata.get(AUTHORIZATION)
        if self._access is Access.SERVICE or self._around.api_keys is None:
            raise PermissionDenied(f"{self._method} is for services of the mesh only")
        if authorization is None:
            raise Unauthenticated("no API key: send metadata `authorization: Bearer <key>`")
        principal = await self._around.api_keys.authenticate(authorization)
        if self._access is Access.OPERATOR and "admin" not in principal.roles:
            raise PermissionDenied(f"{self._method} needs a key with the role admin")
        return principal

    def _validate(self, request: Message | Unreadable) -> None:
        if isinstance(request, Unreadable):
            raise InvalidArgument(request.value, reason="MALFORMED_BODY")
        if isinstance(request, HttpBody):
            return  # raw bytes: nothing to check, and checking would serialise them
        violations = self._validator.collect_violations(request, fail_fast=False)
        if violations:
            found = [_violation(v) for v in violations]
            what = "; ".join(f"{v.field}: {v.description}" for v in found[:8])
            raise InvalidArgument(f"the request is not valid: {what}", violations=found)

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


_READ = frozenset({MESH_TOKEN, TENANT, SUBJECT, PEER, REQUEST_ID, TRACEPARENT, AUTHORIZATION, MESH_METHOD, MESH_PATH})
_SERVICE_ROLES = frozenset({"service"})
_NO_DEADLINE_S = 10 * 365 * 86400.0


class _SpanOfCall:
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


def _violation(violation: protovalidate.Violation) -> FieldViolation:
    parts: list[str] = []
    field = violation.proto.field
    for element in field.elements if field is not None else ():
        subscript = element.subscript
        parts.append(element.field_name + (f"[{subscript.value!r}]" if subscript is not None else ""))
    return FieldViolation(".".join(parts), violation.proto.message)

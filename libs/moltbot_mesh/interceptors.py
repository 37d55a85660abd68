"""What happens around every served call, whichever channel it came by.

Identity, access, deadline, validation, trace, metrics and errors.

The servicer's handlers are wrapped once, when they are registered, so a served call pays for one function and not for a
chain of interceptor objects, and the in-process channel runs exactly what the server runs.

Source: google.rpc.Status over `grpc-status-details-bin`; grpc.aio's AbortError is an `Exception` and passes through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import grpc

from moltbot_mesh.body_answers import BodyHandler, whole
from moltbot_mesh.module import Access
from moltbot_mesh.served_method import ServedMethod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moltbot_mesh.api_keys import ApiKeys
    from moltbot_mesh.audit.calls import CallRecords
    from moltbot_mesh.identity import MeshIdentity
    from moltbot_mesh.module import Registration
    from moltbot_mesh.second_factor import SecondFactors
    from moltbot_mesh.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the wrappers of one service share."""

    telemetry: Telemetry
    identity: MeshIdentity
    api_keys: ApiKeys | None
    """`None`: no API key opens anything here."""
    calls: CallRecords | None = None
    """Record what clients call; `None`: nothing is recorded."""
    factors: SecondFactors | None = None
    """Of administrators; `None`: their key is enough."""


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
        wrapped[method] = _wrap(handler, ServedMethod(method, access, around, recorded=recorded))
    return wrapped


def _wrap(handler: Any, served: ServedMethod) -> grpc.RpcMethodHandler[Any, Any]:
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

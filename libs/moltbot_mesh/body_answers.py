"""Methods that answer with `google.api.HttpBody`, by gRPC: mostly a single body, which goes out with the status."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.api.httpbody_pb2 import HttpBody
from google.protobuf import descriptor_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class BodyHandler:
    """A method that answers with HTTP bodies: mostly with a single one.

    To gRPC's server it is a method with one answer, for that goes out together with the status: a write and some
    changes of threads less, and less to do for Envoy. On the wire nothing tells the two kinds apart. The in-process
    channel takes `unary_stream`.
    """

    request_deserializer: Any
    unary_unary: Any
    unary_stream: Any
    request_streaming: bool = False
    response_streaming: bool = False
    response_serializer: None = None  # gRPC serialises only the last message of such a method: we do it for all
    stream_unary: None = None
    stream_stream: None = None


def answers_in_bodies(method: str) -> bool:
    """Whether a method (`/package.Service/Method`) answers with `google.api.HttpBody`."""
    try:
        found = descriptor_pool.Default().FindMethodByName(method.strip("/").replace("/", "."))
    except KeyError:
        return False  # not of a generated service
    return found.output_type.full_name == HttpBody.DESCRIPTOR.full_name


def whole(streaming: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], Awaitable[bytes]]:
    """A stream of bodies as one answer: events go out as they come, any other body when it is known to be the last."""

    async def handle(request: Any, context: Any) -> bytes:
        held: HttpBody | None = None
        async with contextlib.aclosing(streaming(request, context)) as bodies:  # type: ignore[type-var]
            async for body in bodies:
                if held is not None:
                    await context.write(held.SerializeToString())
                    held = None
                if body.content_type.startswith(_EVENTS):
                    await context.write(body.SerializeToString())
                else:
                    held = body
        return b"" if held is None else held.SerializeToString()

    return handle

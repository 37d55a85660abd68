"""Methods with one request, served so that a call without any is answered.

grpc.aio (1.81 to 1.85) leaves a call unanswered, for as long as the client waits, if the client ends its side without a
message: anybody could hold calls that way, without a key. Read as a stream, the end is seen. The handler then gets an
`Unreadable` in place of the message, and refuses and records the call like any other.

A call that is broken off before its message came (the client left, Envoy could not read its JSON, it was too large) has
the same end and is cancelled a moment later. Nothing runs for it, and whoever broke it off records it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import DecodeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


_BROKEN_OFF_S = 0.1
"""Within this, a call that was broken off is cancelled."""


class Unreadable(Enum):
    """Stands for a request message that there is none of; its value says why."""

    MISSING = "the call ended without a request message"
    UNDECODABLE = "the request message cannot be decoded as protobuf of this method's request type"


def reads_one(handler: Any, *, or_empty: bool = False) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler for the wire; one that takes a stream is returned as it is.

    Args:
        handler: Takes its request, or an `Unreadable`.
        or_empty: It does not know `Unreadable` and changes nothing: an empty message stands for one.
    """
    if handler.request_streaming:
        return handler  # type: ignore[no-any-return]
    read, write = handler.request_deserializer, handler.response_serializer

    async def only(requests: AsyncIterator[Any]) -> Any:
        found = Unreadable.MISSING
        try:
            async for request in requests:
                return request
            await asyncio.sleep(_BROKEN_OFF_S)
        except DecodeError:
            found = Unreadable.UNDECODABLE
        return read(b"") if or_empty else found

    if not handler.response_streaming:
        answer_one = handler.unary_unary

        async def unary(requests: AsyncIterator[Any], context: Any) -> Any:
            return await answer_one(await only(requests), context)

        return cast("Any", grpc.stream_unary_rpc_method_handler(cast("Any", unary), read, write))

    answer_many = handler.unary_stream
    if inspect.isasyncgenfunction(answer_many):

        async def generated(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            async with contextlib.aclosing(answer_many(await only(requests), context)) as answers:
                async for answer in answers:
                    yield answer

        return cast("Any", grpc.stream_stream_rpc_method_handler(cast("Any", generated), read, write))

    async def written(requests: AsyncIterator[Any], context: Any) -> None:
        await answer_many(await only(requests), context)

    return cast("Any", grpc.stream_stream_rpc_method_handler(cast("Any", written), read, write))

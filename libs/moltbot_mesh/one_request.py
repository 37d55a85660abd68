"""Methods with one request, served so that a call without any is answered.

grpc.aio (1.81 to 1.85) leaves a call unanswered, for as long as the client waits, if the client ends its side without a
message: anybody could hold calls that way, without a key. Read as a stream, the end is seen; an empty message then
stands for the one that is missing, so that the call is recognised, validated and recorded like any other.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any, cast

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def reads_one(handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler for the wire; one that takes a stream is returned as it is."""
    if handler.request_streaming:
        return handler  # type: ignore[no-any-return]
    read, write = handler.request_deserializer, handler.response_serializer

    async def only(requests: AsyncIterator[Any]) -> Any:
        async for request in requests:
            return request
        return read(b"")

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

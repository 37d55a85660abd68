"""A channel to servicers in the same process, under the same generated stubs.

It keeps what a gRPC channel promises: messages are copied at the boundary, metadata travels, deadlines end calls,
cancelling a call cancels the handler, errors arrive as `AioRpcError` with their details, and handlers run with all that
`moltbot_mesh.interceptors` puts around them. What differs is flow control: a handler that streams answers runs when
the caller asks for the next one (a window of zero), and a handler that reads a stream runs in a task of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from moltbot_mesh.inprocess_call import UnaryStreamCall, UnaryUnaryCall
from moltbot_mesh.inprocess_streams import StreamStreamCall, StreamUnaryCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from moltbot_mesh.inprocess_context import InProcessContext, Pairs

    Handlers = Mapping[str, grpc.RpcMethodHandler[Any, Any]]


class _Unimplemented:
    """The handler of a method that nobody offers: as over gRPC, the call says so when it is awaited."""

    def __init__(self, method: str) -> None:
        self._text = f"no service in this process offers {method}"

    async def unary_unary(self, _: Any, context: InProcessContext) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, self._text)

    async def unary_stream(self, _: Any, context: InProcessContext) -> AsyncGenerator[Any]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, self._text)
        yield

    stream_unary = unary_unary
    stream_stream = unary_stream


class InProcessChannel:
    """A channel to the handlers of one process.

    Args:
        handlers: By full method name; a method that is not there answers UNIMPLEMENTED. The mapping may still grow.
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    def _handler(self, method: str) -> Any:
        return self._handlers.get(method) or _Unimplemented(method)

    def unary_unary(self, method: str, *_: Any, **__: Any) -> Callable[..., Any]:
        """As `grpc.aio.Channel.unary_unary`."""

        def start(
            request: Any, *, timeout: float | None = None, metadata: Pairs | None = None, **_: Any
        ) -> UnaryUnaryCall:
            return UnaryUnaryCall(self._handler(method), request, metadata, timeout)

        return start

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Callable[..., Any]:
        """As `grpc.aio.Channel.unary_stream`."""

        def start(
            request: Any, *, timeout: float | None = None, metadata: Pairs | None = None, **_: Any
        ) -> UnaryStreamCall:
            return UnaryStreamCall(self._handler(method), request, metadata, timeout)

        return start

    def stream_unary(self, method: str, *_: Any, **__: Any) -> Callable[..., Any]:
        """As `grpc.aio.Channel.stream_unary`."""

        def start(
            request_iterator: AsyncIterator[Any] | None = None,
            timeout: float | None = None,
            metadata: Pairs | None = None,
            **_: Any,
        ) -> StreamUnaryCall:
            return StreamUnaryCall(self._handler(method), request_iterator, metadata, timeout)

        return start

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Callable[..., Any]:
        """As `grpc.aio.Channel.stream_stream`."""

        def start(
            request_iterator: AsyncIterator[Any] | None = None,
            timeout: float | None = None,
            metadata: Pairs | None = None,
            **_: Any,
        ) -> StreamStreamCall:
            return StreamStreamCall(self._handler(method), request_iterator, metadata, timeout)

        return start

    async def close(self, grace: float | None = None) -> None:
        """There is nothing to close: the handlers belong to the runner."""

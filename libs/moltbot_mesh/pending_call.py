"""A gRPC call that has no instance yet."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Generator


class PendingCall:
    """Looks like any of grpc.aio's calls, and becomes the one that `begin` returns.

    Args:
        begin: Finds an instance and starts the call there, or raises `grpc.aio.AioRpcError`.
        timeout_s: The call's deadline, from now, in seconds; `None` if it has none.
    """

    def __init__(self, begin: Coroutine[Any, Any, Any], timeout_s: float | None) -> None:
        self._until_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._callbacks: list[Callable[[Any], None]] = []
        self._beginning = asyncio.get_running_loop().create_task(begin, name="balanced-call")
        self._beginning.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[Any]) -> None:
        failed = task.cancelled() or task.exception() is not None
        for callback in self._callbacks:
            if failed:
                callback(self)
            else:
                task.result().add_done_callback(partial(self._finished, callback))
        self._callbacks.clear()

    def _finished(self, callback: Callable[[Any], None], _call: object) -> None:
        callback(self)

    @property
    def _call(self) -> Any:
        """The call, if it began."""
        task = self._beginning
        return None if not task.done() or task.cancelled() or task.exception() else task.result()

    def __await__(self) -> Generator[Any, Any, Any]:
        call = yield from self._beginning.__await__()
        return (yield from call.__await__())

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for answer in await self._beginning:
            yield answer

    async def read(self) -> Any:
        """See `grpc.aio.UnaryStreamCall.read`."""
        return await (await self._beginning).read()

    async def write(self, request: Any) -> None:
        """See `grpc.aio.StreamUnaryCall.write`."""
        await (await self._beginning).write(request)

    async def done_writing(self) -> None:
        """See `grpc.aio.StreamUnaryCall.done_writing`."""
        await (await self._beginning).done_writing()

    async def wait_for_connection(self) -> None:
        """See `grpc.aio.Call.wait_for_connection`."""
        await (await self._beginning).wait_for_connection()

    def cancel(self) -> bool:
        """See `grpc.aio.RpcContext.cancel`."""
        call = self._call
        return self._beginning.cancel() if call is None else call.cancel()

    def cancelled(self) -> bool:
        """See `grpc.aio.RpcContext.cancelled`."""
        call = self._call
        return self._beginning.cancelled() if call is None else call.cancelled()

    def done(self) -> bool:
        """See `grpc.aio.RpcContext.done`."""
        call = self._call
        return self._beginning.done() if call is None else call.done()

    def time_remaining(self) -> float | None:
        """See `grpc.aio.RpcContext.time_remaining`."""
        return None if self._until_s is None else max(0.0, self._until_s - time.monotonic())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See `grpc.aio.RpcContext.add_done_callback`."""
        call = self._call
        if call is not None:
            call.add_done_callback(partial(self._finished, callback))
        elif self._beginning.done():
            callback(self)
        else:
            self._callbacks.append(callback)

    async def code(self) -> grpc.StatusCode:
        """See `grpc.aio.Call.code`."""
        call = await self._begun_or_error()
        if call is None:
            return grpc.StatusCode.CANCELLED
        return call.code() if isinstance(call, grpc.aio.AioRpcError) else await call.code()

    async def details(self) -> str:
        """See `grpc.aio.Call.details`."""
        call = await self._begun_or_error()
        if call is None:
            return "cancelled before an instance was found"
        return call.details() or "" if isinstance(call, grpc.aio.AioRpcError) else await call.details()

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """See `grpc.aio.Call.initial_metadata`."""
        call = await self._begun_or_error()
        if call is None or isinstance(call, grpc.aio.AioRpcError):
            return grpc.aio.Metadata()
        return await call.initial_metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """See `grpc.aio.Call.trailing_metadata`."""
        call = await self._begun_or_error()
        if call is None or isinstance(call, grpc.aio.AioRpcError):
            return grpc.aio.Metadata()
        return await call.trailing_metadata()

    async def _begun_or_error(self) -> Any:
        """The call, the error that kept it from beginning, or `None` if it was cancelled before."""
        await asyncio.wait([self._beginning])  # does not cancel what it waits for
        if self._beginning.cancelled():
            return None
        error = self._beginning.exception()
        if error is not None and not isinstance(error, grpc.aio.AioRpcError):
            raise error
        return error or self._beginning.result()

"""The caller's side of a call in the same process whose requests are a stream.

The handler runs in a task of its own, beside who writes the requests; a window bounds what waits in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog
from grpc.aio import AbortError, AioRpcError

from moltbot_mesh.inprocess_call import InProcessCall, copied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator

    from moltbot_mesh.inprocess_context import Pairs

log = structlog.get_logger("moltbot.rpc")

_WINDOW = 16
"""Messages that may wait in each direction of a stream before the sender waits."""
_END = object()


class _StreamedRequests(InProcessCall):
    """A call whose requests are a stream: the handler runs in a task of its own."""

    def __init__(
        self, handler: Any, requests: AsyncIterator[Any] | None, metadata: Pairs | None, timeout_s: float | None
    ) -> None:
        super().__init__(handler, metadata, timeout_s)
        self._requests: asyncio.Queue[Any] = asyncio.Queue(_WINDOW)
        self._task = asyncio.create_task(self._run(), name="inprocess-call")
        self._driver = self._task
        self._task.add_done_callback(lambda _: self._finish())
        self._feeder = (
            asyncio.create_task(self._feed(requests), name="inprocess-feed") if requests is not None else None
        )

    async def _run(self) -> Any:
        raise NotImplementedError

    async def _run_within(self, work: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(None if self._deadline_s is None else self._deadline_s - time.monotonic()):
                return await work()
        except AbortError:
            raise self._context.error() from None
        except TimeoutError:
            self._context.status, self._context.text = grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"
            raise self._context.error() from None
        except asyncio.CancelledError:
            self._context.status = grpc.StatusCode.CANCELLED
            raise
        finally:
            if self._feeder is not None:
                self._feeder.cancel()

    async def _feed(self, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                await self.write(request)
            await self.done_writing()
        except (AioRpcError, asyncio.InvalidStateError):
            pass  # the call has ended; its result says why
        except Exception as error:
            log.error("a call's requests broke off", exc_info=error)
            self.cancel()

    async def _incoming(self) -> AsyncIterator[Any]:
        while (request := await self._requests.get()) is not _END:
            yield request

    async def write(self, request: Any) -> None:
        """Send a request; waits while the window is full.

        Raises:
            AioRpcError: The call has ended.
        """
        await self._put(copied(request))

    async def done_writing(self) -> None:
        """Say that no request follows; nothing to say if the call has ended."""
        if not self._task.done():
            with contextlib.suppress(AioRpcError, asyncio.InvalidStateError):
                await self._put(_END)

    async def _put(self, item: Any) -> None:
        if self._task.done():
            raise self._ended_with()
        if not self._requests.full():
            self._requests.put_nowait(item)
            return
        putting = asyncio.ensure_future(self._requests.put(item))
        try:
            await asyncio.wait({putting, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if not putting.done():
                raise self._ended_with()
        finally:
            putting.cancel()

    def _ended_with(self) -> BaseException:
        if self._task.cancelled():
            return asyncio.CancelledError()
        return self._task.exception() or asyncio.InvalidStateError("the call has ended")

    def cancel(self) -> bool:
        """Stop the handler. False if the call has ended."""
        if self._done or self._cancelled:
            return False
        self._cancelled = True
        self._task.cancel()
        return True


class StreamUnaryCall(_StreamedRequests):
    """A stream of requests, one answer."""

    async def _run(self) -> Any:
        return await self._run_within(lambda: self._handler.stream_unary(self._incoming(), self._context))

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._result().__await__()

    async def _result(self) -> Any:
        try:
            return copied(await asyncio.shield(self._task))
        except asyncio.CancelledError:
            self._task.cancel()
            raise


class StreamStreamCall(_StreamedRequests):
    """A stream of requests, a stream of answers."""

    def __init__(
        self, handler: Any, requests: AsyncIterator[Any] | None, metadata: Pairs | None, timeout_s: float | None
    ) -> None:
        self._answers: asyncio.Queue[Any] = asyncio.Queue(_WINDOW)
        super().__init__(handler, requests, metadata, timeout_s)
        self._task.add_done_callback(self._ended)

    async def _run(self) -> Any:
        async def work() -> None:
            async for answer in self._handler.stream_stream(self._incoming(), self._context):
                await self._answers.put(copied(answer))

        return await self._run_within(work)

    def _ended(self, _: Any) -> None:
        if not self._answers.full():
            self._answers.put_nowait(_END)

    def __aiter__(self) -> StreamStreamCall:
        return self

    async def __anext__(self) -> Any:
        if self._answers.empty() and self._task.done():
            return self._at_end()
        answer = await self._answers.get()
        return self._at_end() if answer is _END else answer

    def _at_end(self) -> NoReturn:
        if self._task.cancelled():
            raise asyncio.CancelledError
        error = self._task.exception()
        if error is not None:
            raise error
        raise StopAsyncIteration

    async def read(self) -> Any:
        """The next answer, or `grpc.aio.EOF`."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return grpc.aio.EOF

"""A channel to servicers in the same process, under the same generated stubs.

It keeps what a gRPC channel promises: messages are copied at the boundary, metadata travels, deadlines end calls,
cancelling a call cancels the handler, errors arrive as `AioRpcError` with their details, and handlers run with all that
`moltbot_mesh.interceptors` puts around them. What differs is flow control: a handler that streams answers runs when
the caller asks for the next one (a window of zero), and a handler that reads a stream runs in a task of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
import structlog
from grpc.aio import AbortError, AioRpcError, Metadata

from moltbot_mesh import call as calls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Mapping

    Handlers = Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    Pairs = Iterable[tuple[str, str | bytes]]

log = structlog.get_logger("moltbot.rpc")

_WINDOW = 16
"""Messages that may wait in each direction of a stream before the sender waits."""
_END = object()


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


class _Context:
    """The servicer's side of one call: the part of `grpc.aio.ServicerContext` that a servicer of ours may use."""

    def __init__(self, metadata: tuple[tuple[str, str | bytes], ...], deadline_s: float | None) -> None:
        self._metadata = metadata
        self._deadline_s = deadline_s
        self.initial: Pairs = ()
        self.trailing: Pairs = ()
        self.status = grpc.StatusCode.OK
        self.text = ""

    def invocation_metadata(self) -> Any:
        return self._metadata

    def time_remaining(self) -> float | None:
        return None if self._deadline_s is None else max(0.0, self._deadline_s - time.monotonic())

    def peer(self) -> str:
        return "inprocess:"

    async def send_initial_metadata(self, initial_metadata: Pairs) -> None:
        self.initial = tuple(initial_metadata)

    def set_trailing_metadata(self, trailing_metadata: Pairs) -> None:
        self.trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        return self.trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        self.status = code

    def code(self) -> grpc.StatusCode:
        return self.status

    def set_details(self, details: str) -> None:
        self.text = details

    def details(self) -> str:
        return self.text

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Pairs = ()) -> NoReturn:
        self.status, self.text = code, details
        self.trailing = (*self.trailing, *trailing_metadata)
        raise AbortError(f"{code.name}: {details}")

    def error(self, code: grpc.StatusCode | None = None, details: str | None = None) -> AioRpcError:
        return AioRpcError(
            code or self.status,
            Metadata(*self.initial),
            Metadata(*self.trailing),
            self.text if details is None else details,
        )


class _Call:
    """The caller's side of one call: what grpc.aio's call objects offer."""

    def __init__(self, handler: Any, metadata: Pairs | None, timeout_s: float | None) -> None:
        self._handler = handler
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._context = _Context(tuple(metadata or ()), self._deadline_s)
        self._done = False
        self._cancelled = False
        self._driver: asyncio.Task[Any] | None = None
        self._served: calls.Call | None = None  # what the handler sees as the current call, between two steps
        self._callbacks: list[Callable[[Any], None]] = []

    def cancel(self) -> bool:
        """Stop the handler. False if the call has ended."""
        if self._done or self._cancelled:
            return False
        self._cancelled = True
        if self._driver is not None:
            self._driver.cancel()
        else:
            self._finish()
        return True

    def cancelled(self) -> bool:
        return self._cancelled

    def done(self) -> bool:
        return self._done

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def time_remaining(self) -> float | None:
        return self._context.time_remaining()

    async def initial_metadata(self) -> Metadata:
        return Metadata(*cast("Any", self._context.initial))

    async def trailing_metadata(self) -> Metadata:
        return Metadata(*cast("Any", self._context.trailing))

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED if self._cancelled else self._context.status

    async def details(self) -> str:
        return self._context.text

    async def wait_for_connection(self) -> None:
        """There is nothing to wait for."""

    def _finish(self) -> None:
        if not self._done:
            self._done = True
            for callback in self._callbacks:
                callback(self)

    async def _drive(self, step: Callable[[], Any]) -> Any:
        """Await one step of the handler in the caller's task, as the handler's call, until the deadline."""
        if self._cancelled:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        self._driver = task
        before = calls.current_call()
        if self._served is not None:
            calls.enter_call(self._served)
        try:
            if self._deadline_s is None:
                return await step()
            async with asyncio.timeout(max(0.0, self._deadline_s - time.monotonic())) as limit:
                try:
                    return await step()
                except AbortError:
                    if limit.expired():
                        raise TimeoutError from None
                    raise
        except AbortError:
            raise self._context.error() from None
        except TimeoutError:
            self._context.status, self._context.text = grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"
            raise self._context.error() from None
        except asyncio.CancelledError:
            if self._cancelled:
                # Ours, made by cancel(): the caller's task itself is not being cancelled.
                task.uncancel()
            self._context.status = grpc.StatusCode.CANCELLED
            raise
        finally:
            self._driver = None
            self._served = calls.current_call()
            calls.leave_call(before)


class UnaryUnaryCall(_Call):
    """One request, one answer; the handler runs in the task that awaits the call."""

    def __init__(self, handler: Any, request: Any, metadata: Pairs | None, timeout_s: float | None) -> None:
        super().__init__(handler, metadata, timeout_s)
        self._request = _copy(request)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._result().__await__()

    async def _result(self) -> Any:
        try:
            return _copy(await self._drive(lambda: self._handler.unary_unary(self._request, self._context)))
        finally:
            self._finish()


class UnaryStreamCall(_Call):
    """One request, a stream of answers; the handler runs when the next answer is asked for."""

    def __init__(self, handler: Any, request: Any, metadata: Pairs | None, timeout_s: float | None) -> None:
        super().__init__(handler, metadata, timeout_s)
        self._answers: AsyncGenerator[Any] = handler.unary_stream(_copy(request), self._context)
        self._closing: asyncio.Task[None] | None = None

    def cancel(self) -> bool:
        """End the call; what the handler holds open is closed."""
        idle = self._driver is None
        cancelled = super().cancel()
        if cancelled and idle:
            # Nobody awaits the handler: it stands at a yield and would learn of this only from the garbage collector.
            self._closing = asyncio.create_task(self._close(), name="inprocess-close")
        return cancelled

    async def _close(self) -> None:
        if self._served is not None:
            calls.enter_call(self._served)
        await self._answers.aclose()

    def __aiter__(self) -> UnaryStreamCall:
        return self

    async def __anext__(self) -> Any:
        try:
            return _copy(await self._drive(self._answers.__anext__))
        except BaseException:
            self._finish()
            raise

    async def read(self) -> Any:
        """The next answer, or `grpc.aio.EOF`."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return grpc.aio.EOF


class _StreamedRequests(_Call):
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
        await self._put(_copy(request))

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
            return _copy(await asyncio.shield(self._task))
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
                await self._answers.put(_copy(answer))

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


class _Unimplemented:
    """The handler of a method that nobody offers: as over gRPC, the call says so when it is awaited."""

    def __init__(self, method: str) -> None:
        self._text = f"no service in this process offers {method}"

    async def unary_unary(self, _: Any, context: _Context) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, self._text)

    async def unary_stream(self, _: Any, context: _Context) -> AsyncGenerator[Any]:
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

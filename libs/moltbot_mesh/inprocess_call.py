"""The caller's side of a call in the same process, with one request.

The handler runs in the task that awaits the call, step by step: one that streams answers runs when the caller asks for
the next one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

import grpc
from grpc.aio import AbortError, Metadata

from moltbot_mesh import call as calls
from moltbot_mesh.inprocess_context import InProcessContext

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from moltbot_mesh.inprocess_context import Pairs


def copied(message: Any) -> Any:
    """A message as the other side gets it: its own."""
    other = type(message)()
    other.CopyFrom(message)
    return other


class InProcessCall:
    """The caller's side of one call: what grpc.aio's call objects offer."""

    def __init__(self, handler: Any, metadata: Pairs | None, timeout_s: float | None) -> None:
        self._handler = handler
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._context = InProcessContext(tuple(metadata or ()), self._deadline_s)
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
        """Whether `cancel` ended it."""
        return self._cancelled

    def done(self) -> bool:
        """Whether it has ended."""
        return self._done

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back when it has ended, at once if it has."""
        if self._done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def time_remaining(self) -> float | None:
        """Seconds until its deadline; `None` without one."""
        return self._context.time_remaining()

    async def initial_metadata(self) -> Metadata:
        """What the servicer sent first."""
        return Metadata(*cast("Any", self._context.initial))

    async def trailing_metadata(self) -> Metadata:
        """What the servicer sends last."""
        return Metadata(*cast("Any", self._context.trailing))

    async def code(self) -> grpc.StatusCode:
        """How it ended."""
        return grpc.StatusCode.CANCELLED if self._cancelled else self._context.status

    async def details(self) -> str:
        """Why it ended so."""
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


class UnaryUnaryCall(InProcessCall):
    """One request, one answer; the handler runs in the task that awaits the call."""

    def __init__(self, handler: Any, request: Any, metadata: Pairs | None, timeout_s: float | None) -> None:
        super().__init__(handler, metadata, timeout_s)
        self._request = copied(request)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._result().__await__()

    async def _result(self) -> Any:
        try:
            return copied(await self._drive(lambda: self._handler.unary_unary(self._request, self._context)))
        finally:
            self._finish()


class UnaryStreamCall(InProcessCall):
    """One request, a stream of answers; the handler runs when the next answer is asked for."""

    def __init__(self, handler: Any, request: Any, metadata: Pairs | None, timeout_s: float | None) -> None:
        super().__init__(handler, metadata, timeout_s)
        self._answers: AsyncGenerator[Any] = handler.unary_stream(copied(request), self._context)
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
            return copied(await self._drive(self._answers.__anext__))
        except BaseException:
            self._finish()
            raise

    async def read(self) -> Any:
        """The next answer, or `grpc.aio.EOF`."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return grpc.aio.EOF

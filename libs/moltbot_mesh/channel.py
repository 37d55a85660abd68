"""What a service puts under a generated stub to call another: identity, deadline and trace go out, errors come back.

`MeshChannel` wraps any channel — to a server, balanced over the registry, or in process — so a caller sees the same
whichever shape the mesh runs in: `MoltbotError` classes, a default deadline, and the current call's tenant, trace and
request id carried on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import grpc

from moltbot_mesh.call import current_call
from moltbot_mesh.errors_wire import from_rpc_error
from moltbot_mesh.headers import EVENT, MESH_TOKEN, REQUEST_ID, SUBJECT, TENANT, TRACEPARENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator

    from moltbot_mesh.identity import MeshIdentity

UNARY_TIMEOUT_S = 10.0
"""Deadline of a unary call when neither the caller nor the call being served sets a shorter one."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 24 << 20),
    ("grpc.max_send_message_length", 24 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_retries", 0),
)

_CORE = "Internal error from Core"
_STATUS_POLLS, _STATUS_POLL_S = 50, 0.01


def open_channel(target: str) -> grpc.aio.Channel:
    """Open a plain gRPC channel (`unix:/run/mesh.sock`, `127.0.0.1:9001`) with the mesh's limits."""
    return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)


class _Answer:
    """A call whose errors are the mesh's."""

    def __init__(self, call: Any, service: str) -> None:
        self._call = call
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            return (yield from self._call.__await__())
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._service) from None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._read_all()

    async def _read_all(self) -> AsyncIterator[Any]:
        try:
            async for answer in self._call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._service) from None
        finally:
            if not self._call.done():
                self._call.cancel()

    async def read(self) -> Any:
        """The next answer, or `grpc.aio.EOF`."""
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._service) from None

    async def write(self, request: Any) -> None:
        """Send a request."""
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            if error.details() == _CORE:
                await self._wait_for_status()
                await self._raise_status()
            raise from_rpc_error(error, self._service) from None
        except asyncio.InvalidStateError:
            # grpc.aio says only that the call has ended; its status says why.
            await self._raise_status()
            raise

    async def _wait_for_status(self) -> None:
        """Until the server's own status is there: a write to a call that just ended is told as gRPC's own error."""
        for _ in range(_STATUS_POLLS):
            if await self._call.details() != _CORE:
                return
            await asyncio.sleep(_STATUS_POLL_S)

    async def _raise_status(self) -> None:
        code = await self._call.code()
        if code is not grpc.StatusCode.OK:
            error = grpc.aio.AioRpcError(
                code,
                await self._call.initial_metadata(),
                await self._call.trailing_metadata(),
                await self._call.details(),
            )
            raise from_rpc_error(error, self._service) from None


class MeshChannel:
    """A channel to one service of the mesh.

    Args:
        inner: The channel that carries the calls.
        identity: Makes this side's token.
        service: The name of the service that is called, for messages.
    """

    def __init__(self, inner: Any, identity: MeshIdentity, service: str) -> None:
        self._inner = inner
        self._identity = identity
        self._service = service

    def _outgoing(self, metadata: Any) -> tuple[tuple[str, str | bytes], ...]:
        pairs: tuple[tuple[str, str | bytes], ...] = ((MESH_TOKEN, self._identity.token()),)
        call = current_call()
        if call is not None:
            pairs += (
                (TENANT, call.principal.tenant),
                (SUBJECT, call.principal.subject),
                (TRACEPARENT, call.trace.traceparent),
                (REQUEST_ID, call.request_id),
            )
            if call.event_id:
                pairs += ((EVENT, call.event_id.hex()),)
        return pairs + tuple(metadata) if metadata else pairs

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """A method with one request and one answer."""
        inner = self._inner.unary_unary(method, *args, **kwargs)

        def start(request: Any, *, timeout: float | None = None, metadata: Any = None, **rest: Any) -> _Answer:
            timeout = UNARY_TIMEOUT_S if timeout is None else timeout
            call = current_call()
            if call is not None:
                timeout = call.remaining_s(timeout)
            return _Answer(inner(request, timeout=timeout, metadata=self._outgoing(metadata), **rest), self._service)

        return start

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """A method with one request and a stream of answers; no deadline unless one is given."""
        inner = self._inner.unary_stream(method, *args, **kwargs)

        def start(request: Any, *, timeout: float | None = None, metadata: Any = None, **rest: Any) -> _Answer:
            return _Answer(inner(request, timeout=timeout, metadata=self._outgoing(metadata), **rest), self._service)

        return start

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """A method with a stream of requests and one answer; no deadline unless one is given."""
        return self._streamed(self._inner.stream_unary(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """A method with streams both ways; no deadline unless one is given."""
        return self._streamed(self._inner.stream_stream(method, *args, **kwargs))

    def _streamed(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def start(
            request_iterator: Any = None, timeout: float | None = None, metadata: Any = None, **rest: Any
        ) -> _Answer:
            call = inner(request_iterator, timeout=timeout, metadata=self._outgoing(metadata), **rest)
            return _Answer(call, self._service)

        return start

    async def close(self, grace: float | None = None) -> None:
        """Close the channel underneath."""
        await self._inner.close(grace)


def as_channel(channel: MeshChannel) -> grpc.aio.Channel:
    """The same object with the type that generated stubs ask for."""
    return cast("grpc.aio.Channel", channel)

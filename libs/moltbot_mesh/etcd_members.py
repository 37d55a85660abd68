"""Which member of an etcd cluster is asked, and what happens when it does not answer.

Reads are tried again on another member when one fails. A write is sent once, to a member that is connected: a write
whose answer was lost may have happened, and only the caller knows whether it may be repeated.

Source: https://etcd.io/docs/v3.5/learning/api_guarantees/.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, TypeVar

import grpc
from moltbot.third_party.etcd.v3 import rpc_pb2, rpc_pb2_grpc

from moltbot_mesh.errors import Cancelled, MoltbotError, Unauthenticated, Unavailable
from moltbot_mesh.errors_wire import from_rpc_error
from moltbot_mesh.etcd_watch import is_stale_token
from moltbot_mesh.reconnect import backoff_s, is_ready

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

R = TypeVar("R")

CONNECT_TIMEOUT_S = 2.0
"""How long one member may take to accept a connection before the next one is tried."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 64 << 20),
    # etcd ends connections that ping more often than every 5 s, or with no stream open.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
)
TRANSIENT = frozenset({4, 14})
"""Codes after which a read is tried again: DEADLINE_EXCEEDED and UNAVAILABLE."""


class Members:
    """The members of one cluster. Made within a running event loop; `close` ends it.

    Args:
        endpoints: `host:port` each; the next is tried when one cannot be reached.
        credentials: TLS; `None` speaks plain text.
        username: For etcd's own authentication; empty if it is off.
        password: Belongs to `username`.
        timeout_s: Deadline of each operation, connecting and trying again included, in seconds.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        credentials: grpc.ChannelCredentials | None,
        username: str,
        password: str,
        timeout_s: float,
    ) -> None:
        if not endpoints:
            raise ValueError("etcd: no endpoint; name at least one as host:port")
        self.endpoints = tuple(endpoints)
        self._channels = [
            grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(endpoint, credentials, options=_OPTIONS)
            for endpoint in endpoints
        ]
        self._current = 0
        self._username = username
        self._password = password
        self._token = ""
        self._timeout_s = timeout_s
        self.is_closed = False
        """Whether `close` was called."""

    async def close(self) -> None:
        """End all connections."""
        self.is_closed = True
        for channel in self._channels:
            await channel.close()

    async def connected(self, timeout_s: float) -> grpc.aio.Channel:
        """A channel that is connected: the one in use, or the next member's.

        Args:
            timeout_s: How long it may take, in seconds.

        Raises:
            Unavailable: No member can be reached.
            Unauthenticated: User name or password is wrong.
        """
        until_s = time.monotonic() + timeout_s
        for failures in itertools.count():
            left_s = until_s - time.monotonic()
            if self.is_closed:
                raise Cancelled("the etcd client is closed")
            if left_s <= 0:
                break
            member = self._current
            channel = self._channels[member]
            if await is_ready(channel, min(CONNECT_TIMEOUT_S, left_s)):
                if self._username and not self._token:
                    await self._log_in(channel, left_s)
                return channel
            self._leave(member)
            if (failures + 1) % len(self._channels) == 0:
                await asyncio.sleep(min(left_s, backoff_s(failures // len(self._channels), at_most_s=1.0)))
        raise Unavailable(f"etcd: none of {', '.join(self.endpoints)} can be reached; is it running there?")

    def _leave(self, member: int) -> None:
        """Go on to the next member, unless another call that failed there has done so."""
        if self._current == member:
            self._current = (member + 1) % len(self._channels)

    def call_metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call: the token, and that a member without a leader shall not answer."""
        required = (("hasleader", "true"),)
        return (*required, ("token", self._token)) if self._token else required

    def forget_token(self) -> None:
        """Log in anew before the next call; tokens expire, and a restart of etcd forgets them."""
        self._token = ""

    async def _log_in(self, channel: grpc.aio.Channel, timeout_s: float) -> None:
        stub = rpc_pb2_grpc.AuthStub(channel)
        request = rpc_pb2.AuthenticateRequest(name=self._username, password=self._password)
        try:
            self._token = (await stub.Authenticate(request, timeout=timeout_s)).token
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                what = f"etcd: user {self._username!r} cannot log in: {error.details()}"
                raise Unauthenticated(what) from None
            raise from_rpc_error(error, "etcd") from None

    async def attempts(self, once: Callable[[grpc.aio.Channel, float], Awaitable[R]], *, repeat: bool) -> R:
        """Run a call until it succeeds or the deadline passes; what may not be repeated is sent once.

        Args:
            once: Calls a member, within so many seconds.
            repeat: Whether it may be sent again.

        Raises:
            MoltbotError: It did not succeed.
        """
        until_s = time.monotonic() + self._timeout_s
        attempt = 0
        logged_in_anew = False
        while True:
            channel = await self.connected(until_s - time.monotonic())
            # A member that hangs must leave time for another one.
            timeout_s = max(0.01, until_s - time.monotonic())
            if repeat and len(self._channels) > 1:
                timeout_s = min(timeout_s, self._timeout_s / 2)
            try:
                return await once(channel, timeout_s)
            except (grpc.aio.AioRpcError, MoltbotError) as caught:
                error = from_rpc_error(caught, "etcd") if isinstance(caught, grpc.aio.AioRpcError) else caught
            except (grpc.aio.UsageError, asyncio.CancelledError):
                if self.is_closed:
                    raise Cancelled("the etcd client is closed") from None
                raise
            if self._username and not logged_in_anew and is_stale_token(error):
                # Refused before it was done, so a write may go again too.
                logged_in_anew = True
                self.forget_token()
                continue
            if not repeat or error.code not in TRANSIENT or time.monotonic() >= until_s:
                raise error
            self._leave(self._channels.index(channel))
            await asyncio.sleep(backoff_s(attempt, at_most_s=0.5))
            attempt += 1

"""A client of etcd's v3 API: keys, transactions, leases, and watches that survive what etcd survives.

Reads are tried again on another member when one fails. A write is sent once, to a member that is connected: a write
whose answer was lost may have happened, and only the caller knows whether it may be repeated.

Source: https://etcd.io/docs/v3.5/learning/api/ and https://etcd.io/docs/v3.5/learning/api_guarantees/.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from moltbot.third_party.etcd.v3 import rpc_pb2, rpc_pb2_grpc

from moltbot_mesh.errors import Cancelled, MoltbotError, NotFound, Unauthenticated, Unavailable
from moltbot_mesh.errors_wire import from_rpc_error
from moltbot_mesh.etcd_watch import Change, EtcdValue, is_stale_token, key_text, prefix_end, raise_status, watch_prefix
from moltbot_mesh.reconnect import backoff_s, is_ready

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from types import TracebackType
    from typing import Self

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


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys under a prefix at one revision."""

    values: dict[str, EtcdValue]
    revision: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was granted."""

    id: int
    ttl_s: int
    """What the server granted, in seconds; it may be more than what was asked."""


class EtcdClient:
    """Speaks to one etcd cluster. Made within a running event loop; `close` ends it.

    Args:
        endpoints: Members, `host:port` each; the next is tried when one cannot be reached.
        credentials: TLS; `None` speaks plain text.
        username: For etcd's own authentication; empty if it is off.
        password: Belongs to `username`.
        timeout_s: Deadline of each operation, connecting and trying again included, in seconds.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        credentials: grpc.ChannelCredentials | None = None,
        *,
        username: str = "",
        password: str = "",
        timeout_s: float = 5.0,
    ) -> None:
        if not endpoints:
            raise ValueError("etcd: no endpoint; name at least one as host:port")
        self._endpoints = tuple(endpoints)
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
        self._closed = False

    def __repr__(self) -> str:
        return f"EtcdClient({', '.join(self._endpoints)})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def close(self) -> None:
        """End all connections; running watches end with `Cancelled`."""
        self._closed = True
        for channel in self._channels:
            await channel.close()

    async def get(self, key: str) -> EtcdValue | None:
        """The value of a key, or `None`."""
        answer = await self._read("Range", rpc_pb2.RangeRequest(key=key.encode()))
        return EtcdValue.of(answer.kvs[0]) if answer.kvs else None

    async def get_prefix(self, prefix: str, revision: int = 0) -> Listing:
        """All keys that begin with a prefix.

        Args:
            prefix: Not empty.
            revision: The store as it was then; 0: as it is.

        Raises:
            OutOfRange: History before or after `revision` is not there.
        """
        key = prefix.encode()
        answer = await self._read("Range", rpc_pb2.RangeRequest(key=key, range_end=prefix_end(key), revision=revision))
        return Listing({key_text(kv.key): EtcdValue.of(kv) for kv in answer.kvs}, answer.header.revision)

    async def put(self, key: str, value: bytes, lease_id: int = 0) -> int:
        """Set a value.

        Returns:
            The store's revision after it.

        Raises:
            NotFound: There is no such lease.
            Unavailable: No member could be reached, or one was lost on the way: it may have happened.
        """
        request = rpc_pb2.PutRequest(key=key.encode(), value=value, lease=lease_id)
        return (await self._write("Put", request)).header.revision

    async def put_if(self, key: str, value: bytes, mod_revision: int, lease_id: int = 0) -> bool:
        """Set a value where the key still stands as it was read.

        Args:
            key: Which.
            value: New value.
            mod_revision: `EtcdValue.mod_revision` of what was read; 0: the key must not be there.
            lease_id: The key dies with this lease; 0: with none.

        Returns:
            False if the key stands at another revision; nothing was changed then.
        """
        compare = rpc_pb2.Compare(
            result=rpc_pb2.Compare.EQUAL, target=rpc_pb2.Compare.MOD, key=key.encode(), mod_revision=mod_revision
        )
        put = rpc_pb2.PutRequest(key=key.encode(), value=value, lease=lease_id)
        answer = await self.txn([compare], [rpc_pb2.RequestOp(request_put=put)])
        return answer.succeeded

    async def txn(
        self,
        compare: Sequence[rpc_pb2.Compare],
        success: Sequence[rpc_pb2.RequestOp],
        failure: Sequence[rpc_pb2.RequestOp] = (),
    ) -> rpc_pb2.TxnResponse:
        """Run `success` if all comparisons hold, else `failure`, at one revision."""
        return await self._write("Txn", rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure))

    async def delete(self, key: str) -> bool:
        """Remove a key; False if it was not there."""
        return (await self._write("DeleteRange", rpc_pb2.DeleteRangeRequest(key=key.encode()))).deleted > 0

    async def delete_prefix(self, prefix: str) -> int:
        """Remove all keys that begin with a prefix.

        Returns:
            How many there were.
        """
        key = prefix.encode()
        return (
            await self._write("DeleteRange", rpc_pb2.DeleteRangeRequest(key=key, range_end=prefix_end(key)))
        ).deleted

    async def compact(self, revision: int) -> None:
        """Forget history before a revision."""
        await self._write("Compact", rpc_pb2.CompactionRequest(revision=revision, physical=True))

    async def grant_lease(self, ttl_s: int) -> Lease:
        """Ask for a lease of `ttl_s` seconds."""
        answer = await self._write("LeaseGrant", rpc_pb2.LeaseGrantRequest(TTL=ttl_s))
        return Lease(answer.ID, answer.TTL)

    async def keep_alive(self, lease_id: int) -> int:
        """Start a lease's time anew.

        Returns:
            Seconds it has; 0 if there is no such lease any more.
        """

        async def once(channel: grpc.aio.Channel, timeout_s: float) -> int:
            stub = rpc_pb2_grpc.LeaseStub(channel)
            call = stub.LeaseKeepAlive(timeout=timeout_s, metadata=self.call_metadata())
            try:
                await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id))
                answer = await call.read()
                if isinstance(answer, rpc_pb2.LeaseKeepAliveResponse):
                    return answer.TTL
                await raise_status(call)
                raise Unavailable("etcd ended the keep-alive stream without an answer")
            except asyncio.InvalidStateError:
                await raise_status(call)
                raise
            finally:
                call.cancel()

        return await self._attempts(once, repeat=True)

    async def lease_ttl_s(self, lease_id: int) -> int:
        """Seconds a lease has left; -1 if there is none."""
        return (await self._read("LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id))).TTL

    async def revoke_lease(self, lease_id: int) -> None:
        """End a lease and remove its keys; one that has ended already is fine."""
        with contextlib.suppress(NotFound):
            await self._read("LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=lease_id))

    def watch_prefix(self, prefix: str) -> AsyncGenerator[Change, None]:
        """Follow all keys that begin with a prefix: first what is there, then each change, in order, without gaps.

        A broken connection, a restart of etcd, forgotten history and lost data are lived through; see
        `moltbot_mesh.etcd_watch`.

        Raises:
            PermissionDenied: The user may not read the prefix.
            Unauthenticated: User name or password is wrong.
            Cancelled: The client was closed.
        """
        return watch_prefix(self, prefix)

    async def status(self) -> rpc_pb2.StatusResponse:
        """What the member in use says of itself."""
        return await self._read("Status", rpc_pb2.StatusRequest())

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
            if self._closed:
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
        raise Unavailable(f"etcd: none of {', '.join(self._endpoints)} can be reached; is it running there?")

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

    async def _read(self, method: str, request: Any) -> Any:
        return await self._attempts(
            lambda channel, timeout_s: self._call(channel, method, request, timeout_s), repeat=True
        )

    async def _write(self, method: str, request: Any) -> Any:
        return await self._attempts(
            lambda channel, timeout_s: self._call(channel, method, request, timeout_s), repeat=False
        )

    async def _call(self, channel: grpc.aio.Channel, method: str, request: Any, timeout_s: float) -> Any:
        stub = _STUB_OF[method](channel)
        return await getattr(stub, method)(request, timeout=timeout_s, metadata=self.call_metadata())

    async def _attempts(self, once: Callable[[grpc.aio.Channel, float], Awaitable[R]], *, repeat: bool) -> R:
        """Run a call until it succeeds or the deadline passes; what may not be repeated is sent once."""
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
                if self._closed:
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


TRANSIENT = frozenset({4, 14})
"""Codes after which a read is tried again: DEADLINE_EXCEEDED and UNAVAILABLE."""

_STUB_OF: dict[str, Callable[[Any], Any]] = {
    "Range": rpc_pb2_grpc.KVStub,
    "Put": rpc_pb2_grpc.KVStub,
    "DeleteRange": rpc_pb2_grpc.KVStub,
    "Txn": rpc_pb2_grpc.KVStub,
    "Compact": rpc_pb2_grpc.KVStub,
    "LeaseGrant": rpc_pb2_grpc.LeaseStub,
    "LeaseRevoke": rpc_pb2_grpc.LeaseStub,
    "LeaseTimeToLive": rpc_pb2_grpc.LeaseStub,
    "Status": rpc_pb2_grpc.MaintenanceStub,
}

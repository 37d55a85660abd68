"""A client of etcd's v3 API: keys, transactions, leases, and watches that survive what etcd survives.

Which member is asked, and how often, `etcd_members` decides.

Source: https://etcd.io/docs/v3.5/learning/api/ and https://etcd.io/docs/v3.5/learning/api_guarantees/.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moltbot.third_party.etcd.v3 import rpc_pb2, rpc_pb2_grpc

from moltbot_mesh.errors import NotFound, Unavailable
from moltbot_mesh.etcd_members import Members
from moltbot_mesh.etcd_watch import Change, EtcdValue, key_text, prefix_end, raise_status, watch_prefix

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from types import TracebackType
    from typing import Self

    import grpc


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
        self.members = Members(endpoints, credentials, username, password, timeout_s)
        """Those that answer."""

    def __repr__(self) -> str:
        return f"EtcdClient({', '.join(self.members.endpoints)})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self.members.is_closed

    async def close(self) -> None:
        """End all connections; running watches end with `Cancelled`."""
        await self.members.close()

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
            call = stub.LeaseKeepAlive(timeout=timeout_s, metadata=self.members.call_metadata())
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

        return await self.members.attempts(once, repeat=True)

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

    async def _read(self, method: str, request: Any) -> Any:
        return await self.members.attempts(
            lambda channel, timeout_s: self._call(channel, method, request, timeout_s), repeat=True
        )

    async def _write(self, method: str, request: Any) -> Any:
        return await self.members.attempts(
            lambda channel, timeout_s: self._call(channel, method, request, timeout_s), repeat=False
        )

    async def _call(self, channel: grpc.aio.Channel, method: str, request: Any, timeout_s: float) -> Any:
        stub = _STUB_OF[method](channel)
        return await getattr(stub, method)(request, timeout=timeout_s, metadata=self.members.call_metadata())


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

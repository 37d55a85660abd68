"""Following a prefix in etcd through broken connections, restarts, forgotten history and lost data.

After any break the watch asks for the prefix as it was at the last revision it has seen. Where that is what it has, the
events from the next revision on continue it without a gap, whatever happened in between. Where history is gone, or
tells a different story (an etcd that was restored, or that lost its data and has grown again), it lists anew and passes
on the differences.

Source: https://etcd.io/docs/v3.5/learning/api/#watch-api.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from moltbot.third_party.etcd.v3 import kv_pb2, rpc_pb2, rpc_pb2_grpc

from moltbot_mesh.errors import Cancelled, MoltbotError, OutOfRange, PermissionDenied, Unauthenticated, Unavailable
from moltbot_mesh.errors_wire import from_rpc_error
from moltbot_mesh.reconnect import backoff_s

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping

    from moltbot_mesh.etcd import EtcdClient

log = structlog.get_logger("moltbot.etcd")

_OPEN_TIMEOUT_S = 5.0
_STABLE_S = 10.0
"""A watch that held this long begins anew with a short wait."""

_FATAL = frozenset({1, 3, 7, 12, 16})
"""Codes that no waiting mends: CANCELLED, INVALID_ARGUMENT, PERMISSION_DENIED, UNIMPLEMENTED, UNAUTHENTICATED."""


@dataclass(frozen=True, slots=True)
class EtcdValue:
    """A key's value and where it stands in the store's history."""

    value: bytes
    create_revision: int
    mod_revision: int
    lease_id: int
    """The lease the key dies with; 0 if none."""

    @classmethod
    def of(cls, kv: kv_pb2.KeyValue) -> EtcdValue:
        """From the wire."""
        return cls(kv.value, kv.create_revision, kv.mod_revision, kv.lease)


@dataclass(frozen=True, slots=True)
class Change:
    """What one revision changed under a prefix, or what changed while nobody could look."""

    revision: int
    puts: Mapping[str, EtcdValue]
    deletes: frozenset[str]
    values: Mapping[str, EtcdValue]
    """All keys after the change."""
    resync: bool
    """Made from a list: what stood only in between is not told."""


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with a prefix: the prefix, its last byte below 0xff raised by one.

    Raises:
        ValueError: The prefix is empty.
    """
    if not prefix:
        raise ValueError("etcd: the prefix is empty; the whole store is never what is meant")
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\x00"


def key_text(key: bytes) -> str:
    """A key as text; one that is not UTF-8, which is none of ours, in a form that cannot be taken for another."""
    return key.decode(errors="backslashreplace")


def is_stale_token(error: MoltbotError) -> bool:
    """Whether a new login may mend it."""
    return isinstance(error, Unauthenticated) or "auth store is old" in error.message


async def raise_status(call: Any) -> None:
    """Raise what a call ended with, unless it is OK. It must have ended."""
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        details, metadata = await call.details(), await call.trailing_metadata()
        raise from_rpc_error(grpc.aio.AioRpcError(code, metadata, metadata, details), "etcd") from None


async def watch_prefix(client: EtcdClient, prefix: str) -> AsyncGenerator[Change, None]:
    """See `EtcdClient.watch_prefix`."""
    mirror = _Mirror(prefix)
    failures = 0
    while True:
        tried_s = time.monotonic()
        try:
            change = await mirror.relisted(client)
            if change is not None:
                yield change
            async for answer in _answers(client, prefix, mirror.revision + 1):
                for change in mirror.applied(answer):
                    yield change
        except MoltbotError as error:
            if error.code in _FATAL:
                raise
            if time.monotonic() - tried_s > _STABLE_S:
                failures = 0
            if failures in (0, 5):
                log.warning("etcd watch broke; trying again", prefix=prefix, at=mirror.revision, error=error.message)
            await asyncio.sleep(backoff_s(failures))
            failures += 1


class _Mirror:
    """The prefix as this watch has told it, and the revision up to which it has."""

    def __init__(self, prefix: str) -> None:
        self.revision = 0
        self._prefix = prefix
        self._values: dict[str, EtcdValue] | None = None

    async def relisted(self, client: EtcdClient) -> Change | None:
        """List anew, where what we have is not known to be the store's own history.

        Returns:
            What changed; `None` if nothing did.
        """
        before = self._values
        if before is not None and await self._is_history(client, before):
            return None
        listing = await client.get_prefix(self._prefix)
        after, known = listing.values, before or {}
        self._values, self.revision = after, listing.revision
        if after == before:
            return None
        puts = {key: value for key, value in after.items() if known.get(key) != value}
        return Change(listing.revision, puts, frozenset(known.keys() - after.keys()), dict(after), resync=True)

    async def _is_history(self, client: EtcdClient, values: Mapping[str, EtcdValue]) -> bool:
        try:
            listing = await client.get_prefix(self._prefix, self.revision)
        except OutOfRange:  # forgotten, or not yet written: the store is a younger one
            return False
        return listing.values == values

    def applied(self, answer: rpc_pb2.WatchResponse) -> Iterator[Change]:
        """Take what a watch said, one change for each revision."""
        for revision, events in groupby(answer.events, key=lambda event: event.kv.mod_revision):
            puts: dict[str, EtcdValue] = {}
            deletes: set[str] = set()
            after = dict(self._values or {})
            for event in events:
                key = key_text(event.kv.key)
                if event.type == kv_pb2.Event.DELETE:
                    after.pop(key, None)
                    deletes.add(key)
                else:
                    after[key] = puts[key] = EtcdValue.of(event.kv)
            self._values, self.revision = after, revision
            yield Change(revision, puts, frozenset(deletes), dict(after), resync=False)
        if not answer.events:  # progress: nothing happened up to here
            self.revision = max(self.revision, answer.header.revision)


async def _answers(client: EtcdClient, prefix: str, start_revision: int) -> AsyncIterator[rpc_pb2.WatchResponse]:
    """Open one watch and pass on its answers until it breaks, which is always an error."""
    key = prefix.encode()
    create = rpc_pb2.WatchCreateRequest(
        key=key, range_end=prefix_end(key), start_revision=start_revision, progress_notify=True
    )
    channel = await client.members.connected(_OPEN_TIMEOUT_S)
    call = rpc_pb2_grpc.WatchStub(channel).Watch(metadata=client.members.call_metadata())
    try:
        async with asyncio.timeout(_OPEN_TIMEOUT_S):
            await call.write(rpc_pb2.WatchRequest(create_request=create))
            _check(client, await call.read(), prefix)
        while True:
            answer = await call.read()
            if not isinstance(answer, rpc_pb2.WatchResponse):
                await raise_status(call)
            yield _check(client, answer, prefix)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "etcd") from None
    except TimeoutError:
        raise Unavailable(f"etcd did not open the watch of {prefix} within {_OPEN_TIMEOUT_S:g} s") from None
    except asyncio.InvalidStateError:  # grpc.aio says only that the call has ended
        await raise_status(call)
        raise Unavailable("etcd ended the watch") from None
    except asyncio.CancelledError:
        if client.is_closed:  # closing the channel cancels its calls, not this task
            raise Cancelled("the etcd client is closed") from None
        raise
    finally:
        call.cancel()


def _check(client: EtcdClient, answer: object, prefix: str) -> rpc_pb2.WatchResponse:
    """The answer, unless it ends the watch."""
    if not isinstance(answer, rpc_pb2.WatchResponse):
        raise Unavailable("etcd ended the watch")
    if not answer.canceled:
        return answer
    reason = answer.cancel_reason
    if answer.compact_revision:
        raise OutOfRange(f"etcd has forgotten history before revision {answer.compact_revision}")
    if "permission denied" in reason:
        raise PermissionDenied(f"etcd: this user may not watch {prefix}; grant it read permission on the prefix")
    if "auth" in reason:
        client.members.forget_token()
    raise Unavailable(f"etcd cancelled the watch of {prefix}: {reason or 'no reason given'}")

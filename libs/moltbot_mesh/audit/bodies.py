"""How a producer hands over what requests said and were answered: sealed, behind the answer, without waiting.

Whether bodies are kept is the audit service's word, with the key to seal them to; both are remembered beside the spill,
so a start without the service knows them. What cannot be handed over waits on disk, sealed, within bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import structlog
from moltbot.audit.v1 import privacy_pb2

from moltbot_mesh.audit.sealing import KEY_BYTES, Sealer
from moltbot_mesh.durable import make_directories, replace_durably
from moltbot_mesh.errors import InvalidArgument, MoltbotError, Unimplemented
from moltbot_mesh.errors_wire import from_rpc_error
from moltbot_mesh.uuid7 import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

log = structlog.get_logger("moltbot.audit")

_KEY_FILE = "bodies.key.pub"
_ASK_S, _RETRY_S, _CALL_S = 60.0, 1.0, 30.0
_BATCH, _BATCH_BYTES = 64, 4 << 20


class KeepsBodies(Protocol):
    """The part of a `PrivacyServiceAsyncStub` that is used."""

    @property
    def GetBodyKey(self) -> Callable[..., Any]:  # noqa: N802
        """Asks whether bodies are kept."""
        ...

    @property
    def PutBodies(self) -> Callable[..., Any]:  # noqa: N802
        """Hands bodies over."""
        ...


class BodyKeeper:
    """Hands bodies over. All from the loop that it runs in.

    Args:
        stub: Of the audit service.
        directory: For what waits; its own.
        waiting_bytes: Most bytes in memory.
        spill_bytes: Most bytes on disk.
    """

    def __init__(
        self, stub: KeepsBodies, directory: Path, *, waiting_bytes: int = 64 << 20, spill_bytes: int = 1 << 30
    ) -> None:
        self._stub, self._directory = stub, directory
        self._waiting_bytes, self._spill_bytes = waiting_bytes, spill_bytes
        self._queue: deque[tuple[bytes, privacy_pb2.Body, int]] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._sealer: Sealer | None = None
        self._key = b""
        self._known = False
        self.dropped = 0
        """Bodies for which there was no room."""

    @property
    def wanted(self) -> bool:
        """Whether bodies are kept, as far as is known; until it is, they are gathered."""
        return self._sealer is not None or not self._known

    def keep(self, event_id: bytes, body: privacy_pb2.Body) -> None:
        """Hand the bodies of an event over; never waits."""
        if not self.wanted:
            return
        size = len(body.input) + len(body.output) + len(body.reasoning)
        if self._queued_bytes + size > self._waiting_bytes:
            self._drop(1)
            return
        self._queue.append((event_id, body, size))
        self._queued_bytes += size
        self._wake.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[BodyKeeper]:
        """Hand over while the context is open; what is left then waits on disk."""
        await asyncio.to_thread(self._remember)
        tasks = [
            asyncio.create_task(self._ask_again(), name="audit-body-key"),
            asyncio.create_task(self._hand_over(), name="audit-bodies"),
        ]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if self._sealer is not None and self._queue:
                await asyncio.to_thread(self._spill, self._sealed(len(self._queue)))

    def _remember(self) -> None:
        make_directories(self._directory)
        file = self._directory / _KEY_FILE
        if file.is_file() and len(key := file.read_bytes()) in {0, KEY_BYTES}:
            self._take(key)

    def _take(self, key: bytes) -> None:
        if self._known and key == self._key:
            return
        self._sealer = Sealer(key) if key else None
        self._key, self._known = key, True
        if self._sealer is None:
            self._queue.clear()
            self._queued_bytes = 0

    async def _ask_again(self) -> None:
        while True:
            try:
                answer = await self._stub.GetBodyKey(privacy_pb2.GetBodyKeyRequest(), timeout=_CALL_S)
                if not self._known or answer.public_key != self._key:
                    self._take(answer.public_key)
                    await asyncio.to_thread(replace_durably, self._directory / _KEY_FILE, answer.public_key)
                    self._wake.set()
            except (MoltbotError, grpc.aio.AioRpcError, OSError) as error:
                log.debug("not known whether bodies are kept", error=str(error))
            await asyncio.sleep(_ASK_S if self._known else _RETRY_S)

    async def _hand_over(self) -> None:
        while True:
            if not self._queue and not await asyncio.to_thread(self._waiting):
                self._wake.clear()
                await self._wake.wait()
            if self._sealer is None:
                await asyncio.sleep(_RETRY_S)
                continue
            batch = self._sealed(_BATCH)
            handed_over = await self._put(batch)
            if not handed_over:
                await asyncio.to_thread(self._spill, batch)
            if not (handed_over and await self._send_spilled()):
                await asyncio.sleep(_RETRY_S)

    def _sealed(self, most: int) -> list[privacy_pb2.SealedBody]:
        assert self._sealer is not None
        batch: list[privacy_pb2.SealedBody] = []
        taken = 0
        while self._queue and len(batch) < most and taken < _BATCH_BYTES:
            event_id, body, size = self._queue.popleft()
            self._queued_bytes -= size
            taken += size
            batch.append(self._sealer.seal(event_id, body))
        return batch

    async def _put(self, batch: Sequence[privacy_pb2.SealedBody]) -> bool:
        """Whether bodies are with the audit service, or need not be."""
        if not batch:
            return True
        try:
            await self._stub.PutBodies(privacy_pb2.PutBodiesRequest(bodies=batch), timeout=_CALL_S)
        except (InvalidArgument, Unimplemented) as error:  # never mended by waiting
            log.critical("bodies not kept", bodies=len(batch), error=error.message)
            self.dropped += len(batch)
        except grpc.aio.AioRpcError as error:
            log.warning("bodies wait on disk", error=from_rpc_error(error, "audit").message)
            return False
        except (MoltbotError, OSError, TimeoutError) as error:
            log.warning("bodies wait on disk", error=str(error))
            return False
        return True

    def _waiting(self) -> list[Path]:
        return sorted(self._directory.glob("*.sealed"))

    def _spill(self, batch: Sequence[privacy_pb2.SealedBody]) -> None:
        if not batch:
            return
        data = privacy_pb2.PutBodiesRequest(bodies=batch).SerializeToString()
        try:
            if sum(file.stat().st_size for file in self._waiting()) + len(data) > self._spill_bytes:
                self._drop(len(batch))
                return
            replace_durably(self._directory / f"{uuid7().hex()}.sealed", data)
        except OSError as error:
            log.error("bodies cannot wait on disk", error=str(error))
            self._drop(len(batch))

    async def _send_spilled(self) -> bool:
        """Whether nothing waits on disk any more."""
        for file in await asyncio.to_thread(self._waiting):
            try:
                data = await asyncio.to_thread(file.read_bytes)
            except FileNotFoundError:  # another instance on this data directory has sent it
                continue
            if not await self._put(privacy_pb2.PutBodiesRequest.FromString(data).bodies):
                return False
            await asyncio.to_thread(file.unlink, missing_ok=True)
        return True

    def _drop(self, count: int) -> None:
        self.dropped += count
        log.critical("bodies dropped: no room for them", dropped=self.dropped)

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
from google.protobuf.message import DecodeError
from moltbot.audit.v1 import privacy_pb2

from moltbot_mesh.audit.sealing import KEY_BYTES, Sealer
from moltbot_mesh.durable import make_directories, replace_durably
from moltbot_mesh.errors import DeadlineExceeded, InvalidArgument, MoltbotError, Unavailable, Unimplemented
from moltbot_mesh.errors_wire import from_rpc_error
from moltbot_mesh.uuid7 import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

log = structlog.get_logger("moltbot.audit")

_KEY_FILE = "bodies.key.pub"
_ASK_S, _RETRY_S, _CALL_S = 60.0, 1.0, 30.0
_BATCH, _BATCH_BYTES = 64, 4 << 20
_BODY_BYTES = 19 << 20
"""Most of one event: the service takes 20 MiB sealed."""


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
        self._away = False
        self.dropped = 0
        """Bodies for which there was no room, or that the service refused."""

    @property
    def certain(self) -> bool:
        """Whether bodies are kept for certain: what they are sealed to is known."""
        return self._sealer is not None

    @property
    def wanted(self) -> bool:
        """Whether bodies are kept, as far as is known; until it is, they are gathered."""
        return self._sealer is not None or not self._known

    def keep(self, event_id: bytes, body: privacy_pb2.Body) -> None:
        """Hand the bodies of an event over; never waits."""
        if not self.wanted:
            return
        size = len(body.input) + len(body.output) + len(body.reasoning)
        if size > _BODY_BYTES or self._queued_bytes + size > self._waiting_bytes:
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
            while self._sealer is not None and self._queue:
                await asyncio.to_thread(self._spill, self._sealed())

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
            self._wake.clear()  # before looking: what comes meanwhile wakes it again
            if not self._queue and not await asyncio.to_thread(self._waiting):
                await self._wake.wait()
            if self._sealer is None:
                await asyncio.sleep(_RETRY_S)
                continue
            batch = self._sealed()
            try:
                handed_over = await self._put(batch)
            except asyncio.CancelledError:  # they may have arrived: the service keeps an event once
                self._spill(batch)
                raise
            if not handed_over:
                await asyncio.to_thread(self._spill, batch)
            if not (handed_over and await self._send_spilled()):
                await asyncio.sleep(_RETRY_S)

    def _sealed(self) -> list[privacy_pb2.SealedBody]:
        """The next batch; a body that is larger than one goes alone."""
        assert self._sealer is not None
        batch: list[privacy_pb2.SealedBody] = []
        taken = 0
        while self._queue and len(batch) < _BATCH and (not batch or taken + self._queue[0][2] <= _BATCH_BYTES):
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
        except InvalidArgument as error:  # never mended by waiting
            if len(batch) > 1:  # one of them is not whole: the others are not to go with it
                return all([await self._put([one]) for one in batch])
            self._refused(batch, error)
        except Unimplemented as error:
            self._refused(batch, error)
        except grpc.aio.AioRpcError as error:
            return self._failed(from_rpc_error(error, "audit"))
        except (MoltbotError, OSError, TimeoutError) as error:
            return self._failed(error)
        return True

    def _failed(self, error: Exception) -> bool:
        self._away = not isinstance(error, MoltbotError) or isinstance(error, (Unavailable, DeadlineExceeded))
        log.warning("bodies wait on disk", error=str(error))
        return False

    def _refused(self, batch: Sequence[privacy_pb2.SealedBody], error: MoltbotError) -> None:
        log.critical("bodies not kept", bodies=len(batch), error=error.message)
        self.dropped += len(batch)

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
        sent = True
        for file in await asyncio.to_thread(self._waiting):
            try:
                data = await asyncio.to_thread(file.read_bytes)
                bodies = privacy_pb2.PutBodiesRequest.FromString(data).bodies
            except FileNotFoundError:  # another instance on this data directory has sent it
                continue
            except (OSError, DecodeError) as error:
                log.critical("bodies on disk cannot be read; they are set aside", file=str(file), error=str(error))
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(file.rename, file.with_suffix(".damaged"))
                continue
            if await self._put(bodies):
                await asyncio.to_thread(file.unlink, missing_ok=True)
            elif self._away:
                return False
            else:
                sent = False
        return sent

    def _drop(self, count: int) -> None:
        self.dropped += count
        log.critical("bodies dropped: no room for them", dropped=self.dropped)

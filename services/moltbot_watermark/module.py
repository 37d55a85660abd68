"""The watermark service's wiring."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import structlog
from moltbot.watermark.v1 import watermark_pb2_grpc

from moltbot_mesh.module import Access, Module, Registration, Runtime, Service
from moltbot_watermark.detect import Detector
from moltbot_watermark.keys import Keyring
from moltbot_watermark.label import Labels
from moltbot_watermark.lane import Lane
from moltbot_watermark.master_key import load_master_key
from moltbot_watermark.outputs import Outputs
from moltbot_watermark.registry import Registry
from moltbot_watermark.servicer import WatermarkServicer
from moltbot_watermark.settings import WatermarkSettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

log = structlog.get_logger("moltbot.watermark")

_DAY_S = 86_400.0
_INDEX_INTERVAL_S = 5.0
_ACCESS = {
    "IssueKey": Access.SECURITY,
    "RotateKey": Access.SECURITY,
    "RevokeKey": Access.SECURITY,
    "ListKeys": Access.SECURITY,
    "Detect": Access.TENANT,
    "VerifyLabel": Access.TENANT,
}


@contextlib.asynccontextmanager
async def open_watermark(runtime: Runtime) -> AsyncGenerator[Service]:
    """Load the keys, open the registry, serve."""
    settings = runtime.settings(WatermarkSettings)
    retention_s = settings.retention_days * _DAY_S
    master = load_master_key(settings.master_key_file or runtime.data_dir / "master.key")
    keyring = Keyring(master, runtime.store, retention_s)
    fingerprint_key = master.derive("fingerprint")
    async with contextlib.AsyncExitStack() as stack:
        registry = await asyncio.to_thread(Registry, runtime.data_dir / "registry.sqlite")
        stack.push_async_callback(asyncio.to_thread, registry.close)
        writing = Lane("watermark-write", settings.max_waiting)
        stack.push_async_callback(writing.close)
        reading = Lane("watermark-read", settings.max_waiting)
        stack.push_async_callback(reading.close)
        await stack.enter_async_context(keyring.watching())
        await stack.enter_async_context(_housekeeping(registry, writing, retention_s))
        outputs = Outputs(registry, fingerprint_key, writing, settings.max_waiting)
        stack.push_async_callback(outputs.close)
        servicer = WatermarkServicer(
            settings=settings,
            keyring=keyring,
            registry=registry,
            outputs=outputs,
            detector=Detector(keyring, registry, fingerprint_key),
            label_maker=Labels(keyring),
            writing=writing,
            reading=reading,
            acts=runtime.acts,
        )
        yield Service((Registration(watermark_pb2_grpc.add_WatermarkServiceServicer_to_server, servicer, _ACCESS),))


@contextlib.asynccontextmanager
async def _housekeeping(registry: Registry, writing: Lane, retention_s: float) -> AsyncGenerator[None]:
    """Index new fingerprints, and once a day delete what is past its retention, while the context is open."""

    async def keep() -> None:
        purge_at_s = 0.0
        while True:
            try:
                while await writing.run(registry.index):
                    pass
                if time.monotonic() >= purge_at_s:
                    gone = await writing.run(registry.purge, time.time() - retention_s)
                    log.info("watermark registry purged", entries=gone)
                    purge_at_s = time.monotonic() + _DAY_S
            except Exception:
                log.exception("watermark registry: housekeeping failed; trying again")
            await asyncio.sleep(_INDEX_INTERVAL_S)

    task = asyncio.create_task(keep(), name="watermark-housekeeping")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


MODULE = Module("watermark", (), open_watermark)
"""The watermark service."""

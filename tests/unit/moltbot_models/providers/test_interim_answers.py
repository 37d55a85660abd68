"""Interim answers (1xx) without end: an upstream that never comes to the point is given up like one that is silent."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from moltbot_mesh.errors import Unavailable
from moltbot_models.manifest import Manifest
from moltbot_models.providers.base import UpstreamContext
from moltbot_models.providers.engines import EngineHost
from moltbot_models.providers.http import HttpClient

INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"


@pytest.fixture(params=[(1, 0.01), (4000, 0.0)], ids=["one by one", "as fast as can be"])
async def manifest(request, tmp_path):
    together, pause_s = request.param
    handlers: list[asyncio.Task[None]] = []

    async def flood(reader, writer):
        handlers.append(asyncio.current_task())
        await reader.read(1)
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(INTERIM * together)
                await writer.drain()
                await asyncio.sleep(pause_s)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    path = tmp_path / "s"
    async with await asyncio.start_unix_server(flood, path):
        yield Manifest("m", "text-generation", "openai", endpoint=f"unix:{path}:/v1", timeout_s=0.2)
        await asyncio.gather(*handlers)


async def test_a_request_ends_at_its_deadline(manifest, tmp_path):
    client = HttpClient(manifest, UpstreamContext(tmp_path, {}, EngineHost()))
    started_s = time.monotonic()
    try:
        with pytest.raises(Unavailable, match="first token within"):
            await client.post(client.url(), b"{}", {}, timeout_s=0.2)
        assert time.monotonic() - started_s < 2
    finally:
        await client.aclose()

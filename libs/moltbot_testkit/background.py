"""Upstreams of tests in a thread of their own, so that a test may block while they answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from moltbot_testkit.upstreams import FakeUpstream

_START_S = 10.0


@contextlib.contextmanager
def in_background(upstream: FakeUpstream, port: int = 0) -> Generator[str]:
    """Serve an upstream while the context is open.

    Its plain attributes (`script`, `seen`, `cancelled`) may be read and set from any thread.

    Args:
        upstream: What is served.
        port: A free one if 0.

    Yields:
        The endpoint as a manifest names it.
    """
    endpoint: Future[str] = Future()
    loops: list[asyncio.AbstractEventLoop] = []
    stop = asyncio.Event()

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        try:
            async with upstream.serve(port=port) as found:
                endpoint.set_result(found)
                await stop.wait()
        except BaseException as error:
            if not endpoint.done():
                endpoint.set_exception(error)
            raise

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="upstream", daemon=True)
    thread.start()
    found = endpoint.result(_START_S)
    try:
        yield found
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(_START_S)

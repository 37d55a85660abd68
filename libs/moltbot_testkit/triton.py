"""A real Triton for tests, fetched once into the cache and failing loudly with its log."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_models.triton.provision import ensure_embedder, ensure_triton
from moltbot_models.triton.server import TritonServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from moltbot_models.triton.provision import TritonRuntime
    from moltbot_models.triton.repository import ModelSpec

_READY_S = 60.0


def cache_dir() -> Path:
    """Where fetched things are kept between test runs: `MOLTBOT_CACHE_DIR`, else `~/.cache/moltbot`."""
    return Path(os.environ.get("MOLTBOT_CACHE_DIR") or Path.home() / ".cache" / "moltbot")


def _tell(progress: str) -> None:
    """Beside standard output, which may be a protocol's."""
    sys.stderr.write(f"{progress}\n")


def triton_runtime() -> TritonRuntime:
    """The installed Triton, fetched first if it is not there.

    Raises:
        FailedPrecondition: It cannot be had.
    """
    return ensure_triton(cache_dir(), _tell)


def embedder_path() -> Path:
    """The sentence encoder's directory, fetched first if it is not there.

    Raises:
        FailedPrecondition: It cannot be had.
    """
    return ensure_embedder(cache_dir(), _tell)


@contextlib.asynccontextmanager
async def running_triton(
    runtime: TritonRuntime, specs: Sequence[ModelSpec], *, ready_s: float = _READY_S
) -> AsyncGenerator[TritonServer]:
    """Run Triton with every model loaded while the context is open.

    Raises:
        Unavailable: It did not become ready; the message has the end of its log.
    """
    # Not pytest's directory: its path is too long for a Unix socket.
    with tempfile.TemporaryDirectory(prefix="triton-") as scratch:
        server = TritonServer(runtime, specs, Path(scratch), threads=1, kv_cache_mib=16)
        async with server.running():
            await server.wait_ready(ready_s)
            yield server

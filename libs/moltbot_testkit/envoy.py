"""A real Envoy for tests, on a free port, failing loudly with its log."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_mesh.envoy.config import EnvoyConfig
from moltbot_mesh.envoy.process import ADMIN_SOCKET, EnvoyProcess

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path

_START_S = 20.0
_STOP_S = 5.0
_POLL_S = 0.03


@dataclass(frozen=True, slots=True)
class RunningEnvoy:
    """An Envoy that takes requests."""

    process: EnvoyProcess
    port: int
    log: Path
    """Its log and access log."""
    pid: int

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def target(self) -> str:
        """For gRPC clients."""
        return f"127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def running_envoy(
    run_dir: Path, descriptor_set: Path, upstreams: Mapping[str, tuple[str, ...]], **settings: object
) -> AsyncGenerator[RunningEnvoy]:
    """Run Envoy while the context is open.

    Args:
        run_dir: Short enough for a Unix socket's path.
        descriptor_set: Of the protos.
        upstreams: As in `EnvoyConfig`.
        settings: More of `EnvoyConfig`.

    Raises:
        AssertionError: It did not become ready; the message is its log.
    """
    config = EnvoyConfig(
        upstreams=upstreams,
        descriptor_set=descriptor_set,
        listen_port=0,
        admin_path=run_dir / ADMIN_SOCKET,
        **settings,  # type: ignore[arg-type]
    )
    process = EnvoyProcess(config, run_dir)
    process.prepare()
    log = run_dir / "envoy.log"
    with log.open("ab") as file:
        child = await asyncio.create_subprocess_exec(
            *process.argv, stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_S):
                while child.returncode is None and not await process.ready():  # noqa: ASYNC110 - it sends no event
                    await asyncio.sleep(_POLL_S)
        if not await process.ready():
            raise AssertionError(f"Envoy (exit {child.returncode}) is not ready:\n{log.read_text()}")
        yield RunningEnvoy(process, await process.port(), log, child.pid)
    finally:
        if child.returncode is None:
            child.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await child.wait()
            except TimeoutError:
                child.kill()
                await child.wait()

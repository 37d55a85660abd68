"""Where a model is measured: in a Triton started for it, in this process, or where its manifest says it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_models.providers import open_upstream
from moltbot_models.providers.base import UpstreamContext
from moltbot_models.providers.engines import EngineHost
from moltbot_models.store.placing import spec_of
from moltbot_models.triton.repository import triton_name
from moltbot_models.tuning.process_tree import tree_cpu_s, tree_rss_mib

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_models.manifest import Manifest
    from moltbot_models.providers.base import Upstream
    from moltbot_models.triton.provision import TritonRuntime
    from moltbot_models.triton.server import TritonServer

_READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Bed:
    """Opens models for measuring; made by `opened`."""

    server: TritonServer | None
    context: UpstreamContext

    @contextlib.asynccontextmanager
    async def model(self, manifest: Manifest) -> AsyncGenerator[tuple[Upstream, str]]:
        """The model behind its protocol, loaded and asked once, and its name there.

        Raises:
            MoltbotError: It cannot be loaded or does not answer.
        """
        placed = self.server is not None and bool(manifest.path) and not manifest.endpoint
        if placed:
            assert self.server is not None
            await self.server.place(spec_of(manifest))
            manifest = dataclasses.replace(manifest, provider="triton", endpoint=self.server.endpoint)
        elif manifest.path and not manifest.endpoint:
            manifest = dataclasses.replace(manifest, provider="embedded")
        upstream = open_upstream(manifest, self.context)
        try:
            await upstream.probe()
            name = manifest.upstream_model or (triton_name(manifest.id) if placed else manifest.id)
            yield upstream, name
        finally:
            await upstream.aclose()
            if placed and self.server is not None:
                await self.server.withdraw(manifest.id)

    def cpu_s(self) -> float:
        """CPU time so far of this process and what it started."""
        return tree_cpu_s(os.getpid())

    def rss_mib(self) -> int:
        """Memory of what runs the model: Triton, or this process."""
        pid = self.server.supervisor.pid if self.server is not None else os.getpid()
        return tree_rss_mib(pid or os.getpid())


@contextlib.asynccontextmanager
async def opened(triton: TritonRuntime | None, cache_dir: Path) -> AsyncGenerator[Bed]:
    """A bed, with a Triton of its own if one is given.

    Raises:
        MoltbotError: Triton does not start.
    """
    async with contextlib.AsyncExitStack() as stack:
        engines = EngineHost()
        stack.push_async_callback(engines.aclose)
        server = None
        if triton is not None:
            from moltbot_models.triton.server import TritonServer  # noqa: PLC0415 - only where it is used

            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            server = TritonServer(triton, [], Path(scratch))
            await stack.enter_async_context(server.running())
            await server.wait_ready(_READY_S)
        yield Bed(server, UpstreamContext(cache_dir, os.environ, engines))

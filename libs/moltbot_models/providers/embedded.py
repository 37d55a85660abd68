"""The text engine within this process: the same code that runs in Triton, for where Triton's wheel does not exist."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_mesh.errors import FailedPrecondition, InvalidArgument
from moltbot_models.engine.config import EngineError
from moltbot_models.providers.engines import engine_failure
from moltbot_models.providers.upstream_errors import timed_out

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_models.generation import Delta, EmbeddingRequest, Embeddings, GenerationRequest
    from moltbot_models.manifest import Manifest
    from moltbot_models.providers.base import UpstreamContext


class EmbeddedUpstream:
    """One model directory, loaded into this process on first use."""

    def __init__(self, manifest: Manifest, context: UpstreamContext) -> None:
        self._manifest = manifest
        self._engines = context.engines
        self._path = Path(manifest.path)

    async def generate(
        self,
        request: GenerationRequest,
        *,
        stream: bool = True,  # noqa: ARG002 - the engine's steps cost the same either way
    ) -> AsyncGenerator[tuple[Delta, ...], None]:
        """Generate text; see `Upstream.generate`."""
        # Imported on first use, with the engine.
        from moltbot_models.engine.aio import stream as stream_of  # noqa: PLC0415

        limit_s, waited = self._manifest.timeout_s, "the first token"
        try:
            engine = await self._engines.text(self._path)
            async with contextlib.aclosing(stream_of(engine, request)) as deltas:
                while True:
                    try:
                        async with asyncio.timeout(limit_s):
                            delta = await anext(deltas, None)
                    except TimeoutError:
                        raise timed_out(self._manifest.id, waited, limit_s) from None
                    if delta is None:
                        return
                    yield (delta,)
                    limit_s, waited = self._manifest.idle_timeout_s, "the next token"
        except EngineError as error:
            raise engine_failure(self._manifest.id, error.reason, str(error)) from error

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Refuse: the text engine makes no vectors.

        Raises:
            InvalidArgument: Always.
        """
        raise InvalidArgument(f"{request.model}: the embedded engine generates text; ask a model of type embedding")

    async def probe(self) -> None:
        """Load the engine unless it is loaded."""
        try:
            await self._engines.text(self._path)
        except EngineError as error:
            raise engine_failure(self._manifest.id, error.reason, str(error)) from error

    async def aclose(self) -> None:
        """The engine stays with its host, which other upstreams may use too."""


def open_upstream(manifest: Manifest, context: UpstreamContext) -> EmbeddedUpstream:
    """Open an upstream within this process.

    Raises:
        InvalidArgument: The manifest names no directory.
        FailedPrecondition: The directory is not there.
    """
    if not manifest.path:
        raise InvalidArgument(f"model {manifest.id}: embedded needs `path`, the directory of the model's weights")
    if not Path(manifest.path).is_dir():
        raise FailedPrecondition(f"model {manifest.id}: there is no directory {manifest.path}")
    return EmbeddedUpstream(manifest, context)

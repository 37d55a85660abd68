"""Engine and encoder within this process: the same code that runs in Triton, for where its wheel does not exist."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_mesh.errors import FailedPrecondition, InvalidArgument
from moltbot_models.engine.config import EngineError
from moltbot_models.generation import Embeddings, Scores, Usage
from moltbot_models.providers.engines import EngineKey, engine_failure
from moltbot_models.providers.score_limit import check_scores
from moltbot_models.providers.upstream_errors import timed_out, wrong_task
from moltbot_models.triton.repository import checked_options

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from moltbot_models.encoder import Classifier, Encoder
    from moltbot_models.generation import Delta, EmbeddingRequest, GenerationRequest, ScoringRequest
    from moltbot_models.manifest import Manifest
    from moltbot_models.providers.base import UpstreamContext


class EmbeddedUpstream:
    """One model directory, loaded into this process on first use."""

    def __init__(self, manifest: Manifest, context: UpstreamContext) -> None:
        self._manifest = manifest
        self._engines = context.engines
        self._key = EngineKey.of(manifest)
        self._engines.enter(self._key)
        self._left = False

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
            engine = await self._engines.text(self._key)
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
        """Embed texts; see `Upstream.embed`."""
        manifest = self._manifest
        if manifest.task != "embedding":
            raise wrong_task(request.model, manifest.task, "embedding")
        encoder = await self._encoder()
        if request.dimensions not in {None, encoder.dimensions}:
            raise InvalidArgument(
                f"{request.model}: its vectors have {encoder.dimensions} dimensions; ask for no others"
            )
        try:
            async with asyncio.timeout(manifest.timeout_s):
                vectors, tokens = await asyncio.to_thread(encoder.embed, request.inputs)
        except TimeoutError:
            raise timed_out(manifest.id, "the vectors", manifest.timeout_s) from None
        return Embeddings(tuple(tuple(row) for row in vectors.tolist()), Usage(prompt_tokens=tokens))

    async def score(self, request: ScoringRequest) -> Scores:
        """Score texts; see `Upstream.score`."""
        manifest = self._manifest
        wanted = "classification" if request.query is None else "rerank"
        if manifest.task != wanted:
            raise wrong_task(request.model, manifest.task, wanted)
        try:
            classifier = await self._engines.classifier(self._key)
            check_scores(manifest.id, len(request.inputs), len(classifier.labels))
            async with asyncio.timeout(manifest.timeout_s):
                return await asyncio.to_thread(_scored, classifier, request)
        except TimeoutError:
            raise timed_out(manifest.id, "the scores", manifest.timeout_s) from None
        except EngineError as error:
            raise engine_failure(manifest.id, error.reason, str(error)) from error

    async def probe(self) -> None:
        """Load the engine unless it is loaded."""
        loads = {"embedding": self._engines.encoder, "text-generation": self._engines.text}
        try:
            await loads.get(self._manifest.task, self._engines.classifier)(self._key)
        except EngineError as error:
            raise engine_failure(self._manifest.id, error.reason, str(error)) from error

    async def statistics(self) -> Mapping[str, float]:
        """What the engine counts; see `Measured.statistics`. Nothing before its first use."""
        engine = self._engines.loaded_text(self._key)
        return {} if engine is None else asdict(engine.stats())

    async def _encoder(self) -> Encoder:
        try:
            return await self._engines.encoder(self._key)
        except EngineError as error:
            raise engine_failure(self._manifest.id, error.reason, str(error)) from error

    async def aclose(self) -> None:
        """Leave the engine to its host, which closes it when no other upstream uses it."""
        if not self._left:
            self._left = True
            await self._engines.leave(self._key)


def _scored(classifier: Classifier, request: ScoringRequest) -> Scores:
    query = request.query
    rows = classifier.rows(request.inputs) if query is None else classifier.pairs(query, request.inputs)
    values, tokens = classifier.score(rows)
    labels = classifier.labels if query is None else ()
    return Scores(tuple(tuple(row) for row in values.tolist()), Usage(prompt_tokens=int(tokens.sum())), labels)


def open_upstream(manifest: Manifest, context: UpstreamContext) -> EmbeddedUpstream:
    """Open an upstream within this process.

    Raises:
        InvalidArgument: The manifest names no directory, or has an option that does not exist.
        FailedPrecondition: The directory is not there.
    """
    if not manifest.path:
        raise InvalidArgument(f"model {manifest.id}: embedded needs `path`, the directory of the model's weights")
    if not Path(manifest.path).is_dir():
        raise FailedPrecondition(f"model {manifest.id}: there is no directory {manifest.path}")
    checked_options(manifest.id, manifest.task, manifest.options)
    return EmbeddedUpstream(manifest, context)

"""Upstreams that speak the OpenAI API: vLLM, SGLang, llama.cpp, Ollama, TensorRT-LLM, hosted ones, another mesh.

The endpoint is the API's base, `http://host:8000/v1` or `unix:/run/model.sock:/v1`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from moltbot_models.providers.http import HttpClient, trace_headers
from moltbot_models.providers.openai_answer import MAX_EMBEDDINGS_BYTES, ChunkReader, embeddings, ranking, whole_answer
from moltbot_models.providers.openai_request import chat_body, completion_body, embedding_body, ranking_body
from moltbot_models.providers.pace import answer_timeout_s
from moltbot_models.providers.sse import SseDecoder
from moltbot_models.providers.upstream_errors import garbage, not_offered

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moltbot_models.generation import (
        Delta,
        EmbeddingRequest,
        Embeddings,
        GenerationRequest,
        Scores,
        ScoringRequest,
    )
    from moltbot_models.manifest import Manifest
    from moltbot_models.providers.base import UpstreamContext
    from moltbot_models.providers.http import HttpAnswer


_SSE = "text/event-stream"


class OpenAIUpstream:
    """One model behind the OpenAI API."""

    def __init__(self, manifest: Manifest, context: UpstreamContext) -> None:
        self._manifest = manifest
        self._http = HttpClient(manifest, context)
        self._chat = self._http.url("/chat/completions")
        self._completions = self._http.url("/completions")
        self._embeddings = self._http.url("/embeddings")
        self._models = self._http.url("/models")
        self._rerank = self._http.url("/rerank")

    async def generate(
        self, request: GenerationRequest, *, stream: bool = True
    ) -> AsyncGenerator[tuple[Delta, ...], None]:
        """Generate text; see `Upstream.generate`."""
        answer = await self._http.post(
            self._chat if request.prompt is None else self._completions,
            await _encoded(request, stream=stream),  # kept by nobody while the answer comes
            trace_headers(request, _SSE if stream else "application/json"),
            timeout_s=self._manifest.timeout_s if stream else answer_timeout_s(self._manifest, request),
        )
        try:
            if answer.content_type == _SSE:
                chunks = ChunkStream(answer)
                while deltas := await chunks.read():
                    yield deltas
            else:
                yield (whole_answer(self._manifest.id, await answer.read_all()),)
        finally:
            answer.close()

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed texts; see `Upstream.embed`."""
        answer = await self._http.post(
            self._embeddings,
            msgspec.json.encode(embedding_body(request)),
            trace_headers(request, "application/json"),
            timeout_s=self._manifest.timeout_s,
        )
        try:
            return embeddings(self._manifest.id, await answer.read_all(MAX_EMBEDDINGS_BYTES), len(request.inputs))
        finally:
            answer.close()

    async def score(self, request: ScoringRequest) -> Scores:
        """Rank documents, as vLLM and Jina offer it beside OpenAI's routes; see `Upstream.score`."""
        if request.query is None:
            raise not_offered(request.model, "openai", "classes")
        answer = await self._http.post(
            self._rerank,
            msgspec.json.encode(ranking_body(request, request.query)),
            trace_headers(request, "application/json"),
            timeout_s=self._manifest.timeout_s,
        )
        try:
            return ranking(self._manifest.id, await answer.read_all(MAX_EMBEDDINGS_BYTES), len(request.inputs))
        finally:
            answer.close()

    async def probe(self) -> None:
        """List the upstream's models."""
        await self._http.probe(self._models)

    async def aclose(self) -> None:
        """Close connections."""
        await self._http.aclose()


async def _encoded(request: GenerationRequest, *, stream: bool) -> bytes:
    if any(message.parts for message in request.messages):  # megabytes, which would hold up the loop
        return await asyncio.to_thread(_body, request, stream=stream)
    return _body(request, stream=stream)


def _body(request: GenerationRequest, *, stream: bool) -> bytes:
    if request.prompt is None:
        return msgspec.json.encode(chat_body(request, stream=stream))
    return msgspec.json.encode(completion_body(request, request.prompt, stream=stream))


class ChunkStream:
    """Reads the deltas of an event stream.

    Args:
        answer: Of media type text/event-stream.
    """

    __slots__ = ("_answer", "_decoder", "_ended", "_reader")

    def __init__(self, answer: HttpAnswer) -> None:
        self._answer = answer
        self._decoder = SseDecoder()
        self._reader = ChunkReader(answer.model)
        self._ended = False

    async def read(self) -> tuple[Delta, ...]:
        """What the next read brings that says anything; empty after the last delta.

        Raises:
            MoltbotError: As `Upstream.generate`.
        """
        if self._ended:
            return ()
        while not self._reader.done:
            data = await self._answer.read()
            try:
                events = self._decoder.feed(data) if data else self._decoder.rest()
            except ValueError as error:
                raise garbage(self._answer.model, str(error)) from None
            deltas = self._reader.deltas(events) if events else ()
            if not data or (self._reader.done and self._answer.at_end):
                self._ended = True
                return (*deltas, self._reader.last())
            if deltas:
                return deltas
        self._ended = True
        await self._answer.finish()
        return (self._reader.last(),)


def open_upstream(manifest: Manifest, context: UpstreamContext) -> OpenAIUpstream:
    """Open an upstream that speaks the OpenAI API.

    Raises:
        InvalidArgument: The endpoint is not an address.
        FailedPrecondition: The secret is not there.
    """
    return OpenAIUpstream(manifest, context)

"""Models in Triton: text with the engine in its Python backend, and embeddings.

The endpoint is a gRPC target (`127.0.0.1:8001`, `unix:/path`, on another machine `grpcs://host:8001`);
`upstream_model` is Triton's name of the model.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from moltbot_mesh.errors import InvalidArgument, MoltbotError
from moltbot_models.generation import Embeddings, Scores, Usage
from moltbot_models.providers.base import BATCHES_OF
from moltbot_models.providers.engines import engine_failure
from moltbot_models.providers.score_limit import check_scores
from moltbot_models.providers.upstream_errors import connection_lost, garbage, timed_out, unreachable, wrong_task
from moltbot_models.tls import TlsFiles, grpc_target
from moltbot_models.triton.client import TritonClient, TritonRefusal
from moltbot_models.triton.probe import probe_model
from moltbot_models.triton.repository import triton_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from moltbot_models.generation import Delta, EmbeddingRequest, GenerationRequest, ScoringRequest
    from moltbot_models.manifest import Manifest
    from moltbot_models.providers.base import UpstreamContext

_STATISTICS_S = 2.0
_REASON = re.compile(r"\b([A-Z]+(?:_[A-Z]+)+): (.*)", re.DOTALL)
"""How the backends write an `EngineError`; Triton puts words of its own before it."""


class TritonUpstream:
    """One model of one Triton."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._name = manifest.upstream_model or triton_name(manifest.id)
        target, encrypted = grpc_target(manifest.endpoint)
        self._client = TritonClient(target, files=TlsFiles(manifest.id, manifest.tls) if encrypted else None)
        self._labels: tuple[str, ...] = ()
        """Of a classifier; another version of the model is opened anew."""

    async def generate(
        self, request: GenerationRequest, *, stream: bool = True
    ) -> AsyncGenerator[tuple[Delta, ...], None]:
        """Generate text; see `Upstream.generate`."""
        manifest = self._manifest
        if manifest.task != "text-generation":
            raise wrong_task(request.model, manifest.task, "text-generation")
        answer = self._client.generate(
            self._name, request, stream=stream, first_s=manifest.timeout_s, idle_s=manifest.idle_timeout_s
        )
        waited = "the first token"
        try:
            async with contextlib.aclosing(answer):
                async for deltas in answer:
                    waited = "the next token"
                    yield deltas
                    if deltas and deltas[-1].finish_reason is not None:
                        return
        except TimeoutError:
            limit_s = manifest.timeout_s if waited == "the first token" else manifest.idle_timeout_s
            raise timed_out(manifest.id, waited, limit_s) from None
        except (grpc.aio.AioRpcError, TritonRefusal, ValueError) as error:
            raise self._failure(error) from error
        raise connection_lost(manifest.id)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed texts; see `Upstream.embed`."""
        manifest = self._manifest
        if manifest.task != "embedding":
            raise wrong_task(request.model, manifest.task, "embedding")
        try:
            vectors, tokens = await self._client.embed(
                self._name, request.inputs, manifest.timeout_s, request.traceparent
            )
        except TimeoutError:
            raise timed_out(manifest.id, "the vectors", manifest.timeout_s) from None
        except (grpc.aio.AioRpcError, ValueError) as error:
            raise self._failure(error) from error
        if request.inputs and request.dimensions not in {None, vectors.shape[1]}:
            raise InvalidArgument(f"{request.model}: its vectors have {vectors.shape[1]} dimensions; ask for no others")
        return Embeddings(tuple(tuple(row) for row in vectors.tolist()), Usage(prompt_tokens=tokens))

    async def score(self, request: ScoringRequest) -> Scores:
        """Score texts; see `Upstream.score`."""
        manifest = self._manifest
        wanted = "classification" if request.query is None else "rerank"
        if manifest.task != wanted:
            raise wrong_task(request.model, manifest.task, wanted)
        try:
            if request.query is None and not self._labels:
                self._labels = await self._client.labels(self._name, manifest.timeout_s)
            check_scores(manifest.id, len(request.inputs), max(1, len(self._labels)))
            values, tokens = await self._client.score(
                self._name, request.inputs, request.query, manifest.timeout_s, request.traceparent
            )
        except TimeoutError:
            raise timed_out(manifest.id, "the scores", manifest.timeout_s) from None
        except (grpc.aio.AioRpcError, ValueError) as error:
            raise self._failure(error) from error
        if request.inputs and values.shape[1] != max(1, len(self._labels)):
            raise garbage(manifest.id, "it does not hold one score for each class")
        return Scores(tuple(tuple(row) for row in values.tolist()), Usage(prompt_tokens=tokens), self._labels)

    async def probe(self) -> None:
        """Ask for one token, vector or score; see `Upstream.probe`."""
        try:
            await probe_model(self._client, self._manifest.task, self._name, self._manifest.timeout_s)
        except TimeoutError:
            raise timed_out(self._manifest.id, "an answer to the probe", self._manifest.timeout_s) from None
        except (grpc.aio.AioRpcError, TritonRefusal, ValueError) as error:
            raise self._failure(error) from error

    async def statistics(self) -> Mapping[str, float]:
        """What the engine and Triton count; see `Measured.statistics`."""
        found: dict[str, float] = {}
        try:
            for one in await self._client.statistics(_STATISTICS_S, self._name):
                counted = {"requests": one.requests, "batches": one.batches, "failures": one.failures}
                found |= counted | {"queue_s": one.queue_s, "compute_s": one.compute_s}
                found |= {f"{BATCHES_OF}{size}": count for size, count in one.sizes.items()}
            if self._manifest.task == "text-generation":
                # Last: Triton only sees that a stream began, its engine knows how it ended.
                found |= await self._client.engine_statistics(self._name, _STATISTICS_S)
        except TimeoutError:
            raise timed_out(self._manifest.id, "statistics", _STATISTICS_S) from None
        except (grpc.aio.AioRpcError, TritonRefusal, ValueError) as error:
            raise self._failure(error) from error
        return found

    async def aclose(self) -> None:
        """Close the connection; see `Upstream.aclose`."""
        await self._client.aclose()

    def _failure(self, error: Exception) -> MoltbotError:
        model = self._manifest.id
        if isinstance(error, ValueError):
            return garbage(model, "it is not what the model's backend writes")
        if isinstance(error, grpc.aio.AioRpcError):
            said, code = error.details() or "", error.code()
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                return timed_out(model, "an answer", self._manifest.timeout_s)
            if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
                return unreachable(model, "Triton is not there, or went away")
        else:
            said = str(error)
        found = _REASON.search(said)
        # Without a reason of ours it is Triton that refuses, mostly because the model is not loaded yet.
        return engine_failure(model, found[1], found[2]) if found else unreachable(model, "Triton refused the request")


def open_upstream(manifest: Manifest, context: UpstreamContext) -> TritonUpstream:  # noqa: ARG001 - every provider's
    """Open a model of a Triton; does not wait for the network.

    Raises:
        InvalidArgument: The manifest names no endpoint.
        FailedPrecondition: Its certificates cannot be read.
    """
    if not manifest.endpoint:
        raise InvalidArgument(
            f"model {manifest.id}: triton needs `endpoint`, a gRPC target such as grpcs://host:8001 or unix:/path"
        )
    return TritonUpstream(manifest)

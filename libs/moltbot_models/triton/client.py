"""A small asynchronous client of Triton's gRPC API, for the models that `triton.repository` writes.

Source: KServe Open Inference Protocol v2, gRPC; triton-inference-server/server docs, protocol extensions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2

from moltbot_models.triton.command import ADMIN_HEADER
from moltbot_models.triton.link import Links
from moltbot_models.triton.repository import LABELS, MAX_BATCH_TEXTS
from moltbot_models.wire import STATISTICS, decode_deltas, encode_request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from numpy.typing import NDArray

    from moltbot_models.generation import Delta, GenerationRequest
    from moltbot_models.tls import TlsFiles

Metadata = tuple[tuple[str, str], ...]

_END_S = 1.0
_pb: Any = service_pb2  # generated without types


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """Counters of one version of a model. Source: Triton, statistics extension."""

    name: str
    version: int
    requests: int
    """Texts for an encoder, requests for a text model."""
    batches: int
    failures: int
    queue_s: float
    """Seconds that requests waited, summed."""
    compute_s: float
    """Seconds in the backend, summed; a text model's requests only begin there."""
    sizes: Mapping[int, int]
    """Batches by the number of texts in them; all of a text model's have one, its engine batches by itself."""


class TritonRefusal(Exception):
    """Triton, or the model in it, answered with an error; the message holds no text of a request."""


class TritonClient:
    """Calls one Triton.

    Args:
        endpoint: A gRPC target: `unix:/path` or `host:port`.
        admin: The secret of administration, of a server that keeps one; `load` and `unload` need it.
        files: Certificates; `None` speaks plain text.

    All methods raise `grpc.aio.AioRpcError` when the call itself fails, and `TimeoutError`.
    """

    def __init__(self, endpoint: str, *, admin: str = "", files: TlsFiles | None = None) -> None:
        self._links = Links(endpoint, files)
        self._admin: Metadata = ((ADMIN_HEADER, admin),) if admin else ()

    async def live(self, timeout_s: float) -> bool:
        """Whether the server answers."""
        return bool((await self._ask("ServerLive", _pb.ServerLiveRequest(), timeout_s)).live)

    async def load(self, name: str, timeout_s: float) -> None:
        """Load a model of the repository, or its new version: requests go to the old one until the new one is ready."""
        await self._ask("RepositoryModelLoad", _pb.RepositoryModelLoadRequest(model_name=name), timeout_s, self._admin)

    async def unload(self, name: str, timeout_s: float) -> None:
        """Take a model out; requests under way end first."""
        request = _pb.RepositoryModelUnloadRequest(model_name=name)
        await self._ask("RepositoryModelUnload", request, timeout_s, self._admin)

    async def statistics(self, timeout_s: float, name: str = "") -> list[ModelStatistics]:
        """What a model, or without a name each loaded one, has done since it was loaded."""
        answer = await self._ask("ModelStatistics", _pb.ModelStatisticsRequest(name=name), timeout_s)
        return [
            ModelStatistics(
                name=one.name,
                version=int(one.version),
                requests=one.inference_count,
                batches=one.execution_count,
                failures=one.inference_stats.fail.count,
                queue_s=one.inference_stats.queue.ns / 1e9,
                compute_s=one.inference_stats.compute_infer.ns / 1e9,
                sizes={int(each.batch_size): int(each.compute_infer.count) for each in one.batch_stats},
            )
            for one in answer.model_stats
        ]

    async def generate(
        self, name: str, request: GenerationRequest, *, stream: bool, first_s: float, idle_s: float
    ) -> AsyncGenerator[tuple[Delta, ...], None]:
        """Stream an answer; closing the generator cancels it in the engine.

        Args:
            name: Triton's name of the model.
            request: What is asked.
            stream: Whether pieces are wanted as they come.
            first_s: Seconds to the first message.
            idle_s: Seconds between two messages.

        Raises:
            TritonRefusal: The model refused or failed.
            ValueError: The answer cannot be read.
        """
        message = _request(name, [1], {"REQUEST": [encode_request(request, stream=stream)]})
        traced = _traced(request.traceparent)
        async with self._streaming(message, first_s, traced) as call:
            limit_s = first_s
            while True:
                async with asyncio.timeout(limit_s):
                    answer = await call.read()
                if answer is grpc.aio.EOF:
                    # Raises what ended the call; a call that ended well without a last delta is for the caller to see.
                    if await call.code() != grpc.StatusCode.OK:
                        raise grpc.aio.AioRpcError(
                            await call.code(), grpc.aio.Metadata(), grpc.aio.Metadata(), await call.details()
                        )
                    return
                if answer.error_message:
                    raise TritonRefusal(answer.error_message)
                for element in _elements(_raw(answer.infer_response, "DELTAS")):
                    deltas = decode_deltas(element)
                    last = bool(deltas) and deltas[-1].finish_reason is not None
                    try:
                        yield deltas
                    finally:
                        if last and traced:
                            await _ended(call)
                    if last:
                        return
                limit_s = idle_s

    async def engine_statistics(self, name: str, timeout_s: float) -> dict[str, float]:
        """The counters of a text model's engine, by the names of `EngineStats`.

        Raises:
            ValueError: The answer cannot be read.
            TritonRefusal: The model refused.
        """
        message = _request(name, [1], {"REQUEST": [STATISTICS]})
        async with asyncio.timeout(timeout_s), self._streaming(message, timeout_s) as call:
            answer = await call.read()
            if answer is grpc.aio.EOF:
                raise ValueError("no answer")
            if answer.error_message:
                raise TritonRefusal(answer.error_message)
            (said,) = _elements(_raw(answer.infer_response, "DELTAS"))
            return {str(key): float(value) for key, value in json.loads(said).items()}

    async def embed(
        self, name: str, texts: Sequence[str], timeout_s: float, traceparent: str = ""
    ) -> tuple[NDArray[np.float32], int]:
        """Embed texts.

        Returns:
            Vectors, float32 [texts, dimensions], and the tokens of all texts.
        """
        return await self._encode(name, {"TEXT": texts}, "EMBEDDING", timeout_s, traceparent)

    async def score(
        self, name: str, texts: Sequence[str], query: str | None, timeout_s: float, traceparent: str = ""
    ) -> tuple[NDArray[np.float32], int]:
        """Score texts for a query or, without one, for each class.

        Returns:
            Scores, float32 [texts, classes], and the tokens of all texts.
        """
        columns = {"TEXT": texts} if query is None else {"QUERY": [query] * len(texts), "TEXT": texts}
        return await self._encode(name, columns, "SCORES", timeout_s, traceparent)

    async def _encode(
        self, name: str, columns: Mapping[str, Sequence[str]], output: str, timeout_s: float, traceparent: str
    ) -> tuple[NDArray[np.float32], int]:
        count = len(columns["TEXT"])
        if not count:
            return np.empty((0, 0), np.float32), 0
        values: list[NDArray[np.float32]] = []
        tokens = 0
        async with asyncio.timeout(timeout_s):
            for begin in range(0, count, MAX_BATCH_TEXTS):
                size = min(count - begin, MAX_BATCH_TEXTS)
                tensors = {
                    key: [text.encode() for text in column[begin : begin + size]] for key, column in columns.items()
                }
                request = _request(name, [size, 1], tensors)
                answer = await self._ask("ModelInfer", request, timeout_s, _traced(traceparent))
                values.append(np.frombuffer(_raw(answer, output), "<f4").reshape(size, -1))
                tokens += int(np.frombuffer(_raw(answer, "TOKENS"), "<i4").sum())
        return np.concatenate(values), tokens

    async def labels(self, name: str, timeout_s: float) -> tuple[str, ...]:
        """The names of a classifier's classes, in the order of its scores.

        Raises:
            ValueError: Its configuration does not say them.
        """
        answer = await self._ask("ModelConfig", _pb.ModelConfigRequest(name=name), timeout_s)
        found = json.loads(answer.config.parameters[LABELS].string_value or "null")
        if not isinstance(found, list):
            raise ValueError("no labels")  # noqa: TRY004 - the answer is at fault, not the caller
        return tuple(str(label) for label in cast("list[object]", found))

    async def _ask(self, method: str, request: Any, timeout_s: float, metadata: Metadata = ()) -> Any:
        async with self._links.stub() as stub:
            return await getattr(stub, method)(request, timeout=timeout_s, metadata=metadata)

    @contextlib.asynccontextmanager
    async def _streaming(self, message: Any, timeout_s: float, metadata: Metadata = ()) -> AsyncGenerator[Any]:
        """A stream on which `message` was sent; leaving it cancels what is under way."""
        async with self._links.stub() as stub:
            call = stub.ModelStreamInfer(metadata=metadata)
            try:
                async with asyncio.timeout(timeout_s):
                    await call.write(message)
                    await call.done_writing()
                yield call
            finally:
                call.cancel()

    async def aclose(self) -> None:
        """Close the connection; calls under way end with an error."""
        await self._links.aclose()


async def _ended(call: Any) -> None:
    """Let Triton end a stream whose answer is complete: of one that is cancelled it keeps the spans to itself."""
    with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
        async with asyncio.timeout(_END_S):
            while await call.read() is not grpc.aio.EOF:
                pass


def _traced(traceparent: str) -> Metadata:
    """What Triton records a request by: it does so whatever the context's flag says, so only a sampled one is told."""
    return (("traceparent", traceparent),) if traceparent.endswith("-01") else ()


def _request(name: str, shape: list[int], tensors: Mapping[str, list[bytes]]) -> Any:
    tensor = _pb.ModelInferRequest.InferInputTensor
    return _pb.ModelInferRequest(
        model_name=name,
        inputs=[tensor(name=key, datatype="BYTES", shape=shape) for key in tensors],
        raw_input_contents=[
            b"".join(struct.pack("<I", len(element)) + element for element in elements) for elements in tensors.values()
        ],
    )


def _raw(answer: Any, name: str) -> bytes:
    """The bytes of an output; empty if the answer has none of that name."""
    names = [output.name for output in answer.outputs]
    return cast("bytes", answer.raw_output_contents[names.index(name)]) if name in names else b""


def _elements(raw: bytes) -> list[bytes]:
    """Split a BYTES tensor."""
    found: list[bytes] = []
    place = 0
    while place < len(raw):
        (length,) = struct.unpack_from("<I", raw, place)
        found.append(raw[place + 4 : place + 4 + length])
        place += 4 + length
    return found

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
from tritonclient.grpc import service_pb2, service_pb2_grpc

from moltbot_models.triton.repository import LABELS, MAX_BATCH_TEXTS
from moltbot_models.wire import STATISTICS, decode_deltas, encode_request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from numpy.typing import NDArray

    from moltbot_models.generation import Delta, GenerationRequest

_MAX_MESSAGE_BYTES = 64 << 20
_OPTIONS = [
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # A server that was restarted is found again within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]
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


class TritonRefusal(Exception):
    """Triton, or the model in it, answered with an error; the message holds no text of a request."""


class TritonClient:
    """Calls one Triton.

    Args:
        endpoint: A gRPC target: `unix:/path` or `host:port`.

    All methods raise `grpc.aio.AioRpcError` when the call itself fails, and `TimeoutError`.
    """

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def live(self, timeout_s: float) -> bool:
        """Whether the server answers."""
        return bool((await self._stub.ServerLive(_pb.ServerLiveRequest(), timeout=timeout_s)).live)

    async def load(self, name: str, timeout_s: float) -> None:
        """Load a model of the repository, or its new version: requests go to the old one until the new one is ready."""
        await self._stub.RepositoryModelLoad(_pb.RepositoryModelLoadRequest(model_name=name), timeout=timeout_s)

    async def unload(self, name: str, timeout_s: float) -> None:
        """Take a model out; requests under way end first."""
        await self._stub.RepositoryModelUnload(_pb.RepositoryModelUnloadRequest(model_name=name), timeout=timeout_s)

    async def statistics(self, timeout_s: float, name: str = "") -> list[ModelStatistics]:
        """What a model, or without a name each loaded one, has done since it was loaded."""
        answer = await self._stub.ModelStatistics(_pb.ModelStatisticsRequest(name=name), timeout=timeout_s)
        return [
            ModelStatistics(
                name=one.name,
                version=int(one.version),
                requests=one.inference_count,
                batches=one.execution_count,
                failures=one.inference_stats.fail.count,
                queue_s=one.inference_stats.queue.ns / 1e9,
                compute_s=one.inference_stats.compute_infer.ns / 1e9,
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
        call = self._stub.ModelStreamInfer()
        try:
            limit_s = first_s
            async with asyncio.timeout(limit_s):
                await call.write(message)
                await call.done_writing()
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
                    yield deltas
                    if deltas and deltas[-1].finish_reason is not None:
                        return
                limit_s = idle_s
        finally:
            call.cancel()

    async def engine_statistics(self, name: str, timeout_s: float) -> dict[str, float]:
        """The counters of a text model's engine, by the names of `EngineStats`.

        Raises:
            ValueError: The answer cannot be read.
            TritonRefusal: The model refused.
        """
        call = self._stub.ModelStreamInfer()
        try:
            async with asyncio.timeout(timeout_s):
                await call.write(_request(name, [1], {"REQUEST": [STATISTICS]}))
                await call.done_writing()
                answer = await call.read()
            if answer is grpc.aio.EOF:
                raise ValueError("no answer")
            if answer.error_message:
                raise TritonRefusal(answer.error_message)
            (said,) = _elements(_raw(answer.infer_response, "DELTAS"))
            return {str(key): float(value) for key, value in json.loads(said).items()}
        finally:
            call.cancel()

    async def embed(self, name: str, texts: Sequence[str], timeout_s: float) -> tuple[NDArray[np.float32], int]:
        """Embed texts.

        Returns:
            Vectors, float32 [texts, dimensions], and the tokens of all texts.
        """
        return await self._encode(name, {"TEXT": texts}, "EMBEDDING", timeout_s)

    async def score(
        self, name: str, texts: Sequence[str], query: str | None, timeout_s: float
    ) -> tuple[NDArray[np.float32], int]:
        """Score texts for a query or, without one, for each class.

        Returns:
            Scores, float32 [texts, classes], and the tokens of all texts.
        """
        columns = {"TEXT": texts} if query is None else {"QUERY": [query] * len(texts), "TEXT": texts}
        return await self._encode(name, columns, "SCORES", timeout_s)

    async def _encode(
        self, name: str, columns: Mapping[str, Sequence[str]], output: str, timeout_s: float
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
                answer = await self._stub.ModelInfer(_request(name, [size, 1], tensors), timeout=timeout_s)
                values.append(np.frombuffer(_raw(answer, output), "<f4").reshape(size, -1))
                tokens += int(np.frombuffer(_raw(answer, "TOKENS"), "<i4").sum())
        return np.concatenate(values), tokens

    async def labels(self, name: str, timeout_s: float) -> tuple[str, ...]:
        """The names of a classifier's classes, in the order of its scores.

        Raises:
            ValueError: Its configuration does not say them.
        """
        answer = await self._stub.ModelConfig(_pb.ModelConfigRequest(name=name), timeout=timeout_s)
        found = json.loads(answer.config.parameters[LABELS].string_value or "null")
        if not isinstance(found, list):
            raise ValueError("no labels")  # noqa: TRY004 - the answer is at fault, not the caller
        return tuple(str(label) for label in cast("list[object]", found))

    async def aclose(self) -> None:
        """Close the connection; calls under way end with an error."""
        with contextlib.suppress(grpc.RpcError):
            await self._channel.close()


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

"""Who may infer may not administer: the real Triton refuses whoever does not have this start's secret."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

import moltbot_models
from moltbot_models.generation import GenerationRequest, Sampling
from moltbot_models.manifest import Manifest
from moltbot_models.providers.triton import TritonUpstream
from moltbot_models.triton.command import ADMIN_HEADER
from moltbot_models.triton.repository import ModelSpec
from moltbot_testkit.triton import running_triton, triton_runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moltbot_models.triton.server import TritonServer

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]
TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
pb: Any = service_pb2
ADMINISTRATION = {
    "RepositoryIndex": pb.RepositoryIndexRequest(),
    "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="tiny"),
    "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="tiny"),
    "SystemSharedMemoryStatus": pb.SystemSharedMemoryStatusRequest(),
    "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterRequest(name="x", key="/x", byte_size=8),
    "SystemSharedMemoryUnregister": pb.SystemSharedMemoryUnregisterRequest(),
    "CudaSharedMemoryStatus": pb.CudaSharedMemoryStatusRequest(),
    "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterRequest(name="x", byte_size=8),
    "CudaSharedMemoryUnregister": pb.CudaSharedMemoryUnregisterRequest(),
    "TraceSetting": pb.TraceSettingRequest(),
    "LogSettings": pb.LogSettingsRequest(),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[TritonServer]:
    async with running_triton(triton_runtime(), [ModelSpec("tiny", "text-generation", TINY)]) as running:
        yield running


async def asked(server: TritonServer, method: str, request: object, secret: str | None) -> str:
    metadata = () if secret is None else ((ADMIN_HEADER, secret),)
    async with grpc.aio.insecure_channel(server.endpoint) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            await getattr(stub, method)(request, metadata=metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            return "refused" if "This protocol is restricted" in (error.details() or "") else str(error)
    return "done"


@pytest.mark.parametrize("method", ADMINISTRATION)
async def test_administration_is_refused_without_the_secret_and_with_a_wrong_one(
    server: TritonServer, method: str
) -> None:
    for secret in (None, "", "0" * 64, server._admin[:-1]):
        assert await asked(server, method, ADMINISTRATION[method], secret) == "refused"


async def test_the_secret_opens_administration(server: TritonServer) -> None:
    for method in ("RepositoryIndex", "SystemSharedMemoryStatus", "TraceSetting", "LogSettings", "RepositoryModelLoad"):
        assert await asked(server, method, ADMINISTRATION[method], server._admin) == "done"


async def test_inference_and_statistics_need_no_secret(server: TritonServer) -> None:
    manifest = Manifest("tiny", "text-generation", "triton", server.endpoint)
    async with contextlib.aclosing(TritonUpstream(manifest)) as upstream:
        request = GenerationRequest("tiny", prompt="a", sampling=Sampling(max_tokens=2))
        pieces = [delta async for deltas in upstream.generate(request) for delta in deltas]
        assert pieces[-1].finish_reason
        assert (await upstream.statistics())["requests"] >= 1


async def test_the_secret_is_of_one_start_and_stands_in_no_log(server: TritonServer) -> None:
    async with running_triton(triton_runtime(), []) as other:
        assert other._admin != server._admin
        assert await asked(other, "RepositoryIndex", ADMINISTRATION["RepositoryIndex"], server._admin) == "refused"
        assert other._admin not in other.supervisor.tail()

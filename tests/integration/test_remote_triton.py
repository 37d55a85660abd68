"""A real Triton for other machines, behind a real Envoy: who proves itself infers, and nobody administers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

import moltbot_models
from moltbot_daemon.model_door import model_door
from moltbot_daemon.places import Places
from moltbot_daemon.settings import InferenceSettings
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument, Unavailable
from moltbot_models import tls
from moltbot_models.generation import GenerationRequest, Sampling
from moltbot_models.manifest import Manifest
from moltbot_models.providers.triton import TritonUpstream
from moltbot_models.tls import Tls
from moltbot_models.triton.command import ADMIN_HEADER
from moltbot_models.triton.repository import ModelSpec
from moltbot_testkit.certificates import Authority
from moltbot_testkit.ports import free_port
from moltbot_testkit.triton import running_triton, triton_runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moltbot_models.triton.server import TritonServer
    from moltbot_testkit.certificates import Issued

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]
TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
CLIENT, SPIFFE = "gateway.example", "spiffe://mesh.example/gateway"
pb: Any = service_pb2


@dataclass
class World:
    """A Triton, its door, and who may pass."""

    folder: Path
    port: int
    authority: Authority
    foreign: Authority
    node: Issued
    triton: TritonServer

    def given(self, client: Issued | None, **changes: Any) -> Tls:
        own = {} if client is None else {"cert_file": str(client.cert), "key_file": str(client.key)}
        return Tls(**{"ca_file": str(self.authority.cert), "server_name": "node.example", **own, **changes})

    def upstream(self, given: Tls, endpoint: str = "") -> TritonUpstream:
        endpoint = endpoint or f"grpcs://127.0.0.1:{self.port}"
        return TritonUpstream(Manifest("tiny", "text-generation", "triton", endpoint, timeout_s=10, tls=given))

    def client(self, name: str = CLIENT, **kind: bool) -> Issued:
        return self.authority.issue(name, client=True, **kind)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("door")
    authority, foreign, port = Authority(folder), Authority(folder, "foreign"), free_port()
    node = authority.issue("node.example")
    settings = InferenceSettings(
        listen=f"127.0.0.1:{port}",
        tls_certificate=node.cert,
        tls_key=node.key,
        tls_client_ca=authority.cert,
        tls_client_names=[CLIENT, SPIFFE],
    )
    places = Places(folder, folder, folder, folder / "mesh.key")
    async with running_triton(triton_runtime(), [ModelSpec("tiny", "text-generation", TINY)]) as triton:
        door = model_door(settings, places, triton)
        assert door is not None
        async with door.running():
            await door.wait_ready(20)
            yield World(folder, port, authority, foreign, node, triton)


async def said(upstream: TritonUpstream) -> str:
    request = GenerationRequest("tiny", prompt="a", sampling=Sampling(max_tokens=3, ignore_eos=True))
    return "".join([delta.text async for deltas in upstream.generate(request) for delta in deltas])


@pytest.mark.parametrize("name", [CLIENT, SPIFFE])
async def test_who_has_a_certificate_of_the_right_name_infers(world: World, name: str) -> None:
    async with contextlib.aclosing(world.upstream(world.given(world.client(name)))) as upstream:
        await upstream.probe()
        assert await said(upstream)
        assert (await upstream.statistics())["completion_tokens"] >= 3


@pytest.mark.parametrize("who", ["nobody", "foreign", "expired", "other name", "server"])
async def test_who_cannot_prove_itself_is_refused(world: World, who: str) -> None:
    client = {
        "nobody": lambda: None,
        "foreign": lambda: world.foreign.issue(CLIENT, client=True),
        "expired": lambda: world.client(expired=True),
        "other name": lambda: world.client("elsewhere.example"),
        "server": lambda: world.authority.issue(CLIENT),
    }[who]()
    async with contextlib.aclosing(world.upstream(world.given(client))) as upstream:
        with pytest.raises(Unavailable):
            await said(upstream)


@pytest.mark.parametrize("change", ["authority", "name"])
async def test_a_node_that_cannot_prove_itself_is_told_nothing(world: World, change: str) -> None:
    other = {"ca_file": str(world.foreign.cert)} if change == "authority" else {"server_name": "other.example"}
    async with contextlib.aclosing(world.upstream(world.given(world.client(), **other))) as upstream:
        with pytest.raises(Unavailable):
            await said(upstream)


async def test_plain_text_is_not_understood(world: World) -> None:
    plain = world.upstream(Tls(plain_text=True), f"127.0.0.1:{world.port}")
    async with contextlib.aclosing(plain) as upstream:
        with pytest.raises(Unavailable):
            await said(upstream)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="tiny")),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="tiny")),
        ("RepositoryIndex", pb.RepositoryIndexRequest()),
        ("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(name="x", key="/x", byte_size=8)),
        ("TraceSetting", pb.TraceSettingRequest()),
        ("LogSettings", pb.LogSettingsRequest()),
    ],
)
async def test_nobody_administers_through_the_door_not_even_with_the_secret(
    world: World, method: str, request_: object
) -> None:
    mine = world.client()
    credentials = grpc.ssl_channel_credentials(
        world.authority.cert.read_bytes(), mine.key.read_bytes(), mine.cert.read_bytes()
    )
    options = [("grpc.ssl_target_name_override", "node.example")]
    async with grpc.aio.secure_channel(f"127.0.0.1:{world.port}", credentials, options=options) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await getattr(stub, method)(request_, metadata=((ADMIN_HEADER, world.triton._admin),), timeout=10)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert (await stub.ServerLive(pb.ServerLiveRequest(), timeout=10)).live


async def test_a_renewed_certificate_is_taken_up_without_a_restart_on_both_sides(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_LOOK_S", 0.0)
    late = world.client(expired=True)
    async with contextlib.aclosing(world.upstream(world.given(late))) as upstream:
        with pytest.raises(Unavailable):
            await said(upstream)
        fresh = world.client()
        for old, new in ((late.key, fresh.key), (late.cert, fresh.cert)):
            new.replace(old)
        assert await said(upstream)
        before = await shown(world)
        world.authority.issue("node.example")
        async with asyncio.timeout(20):
            while await shown(world) == before:
                await asyncio.sleep(0.1)
        assert await said(upstream)


async def shown(world: World) -> bytes:
    """The certificate by which the node proves itself now."""
    mine = world.client("look", expired=False)
    context = ssl.create_default_context(cafile=world.authority.cert)
    context.load_cert_chain(mine.cert, mine.key)
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port, ssl=context, server_hostname="node.example")
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    del reader
    return found


async def test_a_door_without_proof_or_without_a_triton_is_refused_with_its_mend(world: World) -> None:
    places = Places(world.folder, world.folder, world.folder, world.folder / "mesh.key")
    with pytest.raises(InvalidArgument, match="tls_client_ca"):
        model_door(InferenceSettings(listen="0.0.0.0:8001"), places, world.triton)
    whole = InferenceSettings(
        listen="127.0.0.1:8001",
        tls_certificate=world.node.cert,
        tls_key=world.node.key,
        tls_client_ca=world.authority.cert,
    )
    with pytest.raises(FailedPrecondition, match=r"inference\.engine"):
        model_door(whole, places, None)
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        model_door(whole.model_copy(update={"tls_key": Path("/gone")}), places, world.triton)
    assert model_door(InferenceSettings(), places, None) is None

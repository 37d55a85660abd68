"""deploy/triton/serve.sh with the real Triton: its own mutual TLS, a named model, administration for nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import pytest_asyncio
import yaml

import moltbot_models
from moltbot_mesh.errors import Unavailable
from moltbot_models.generation import GenerationRequest, Sampling
from moltbot_models.manifest import Manifest
from moltbot_models.providers.triton import TritonUpstream
from moltbot_models.tls import Tls, TlsFiles
from moltbot_models.triton.client import TritonClient
from moltbot_models.triton.command import Launch
from moltbot_models.triton.repository import ModelSpec, write_repository
from moltbot_testkit.certificates import Authority
from moltbot_testkit.ports import free_port
from moltbot_testkit.process import ChildProcess, tcp_answers
from moltbot_testkit.triton import triton_runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]
TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
DEPLOY = Path(__file__).parents[2] / "deploy" / "triton"
SECRET = "a" * 32


class World:
    """The files of one machine, and where its Triton listens."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.authority, self.foreign = Authority(folder), Authority(folder, "foreign")
        node = self.authority.issue("gpu.example")
        for file, name in ((node.cert, "tls.crt"), (node.key, "tls.key"), (self.authority.cert, "ca.crt")):
            (folder / name).write_bytes(file.read_bytes())
        options = {"kv_cache_mib": "16", "threads": "1"}
        write_repository(folder / "models", [ModelSpec("tiny", "text-generation", TINY, options)])
        (folder / "admin").write_text(f"{SECRET}\n")

    def environment(self, **changes: str) -> dict[str, str]:
        runtime = triton_runtime()
        own = {
            "MODELS": "tiny",
            "REPOSITORY": str(self.folder / "models"),
            "CERTIFICATES": str(self.folder),
            "ADDRESS": "127.0.0.1",
            "PORT": str(self.port),
            "ADMIN_FILE": str(self.folder / "admin"),
            "TRITONSERVER": str(runtime.server),
        }
        launch = Launch(runtime, self.folder, self.folder, "", "")
        return launch.environment | own | changes

    def given(self, **changes: Any) -> Tls:
        mine = self.authority.issue("gateway", client=True)
        whole = {"ca_file": str(self.authority.cert), "cert_file": str(mine.cert), "key_file": str(mine.key)}
        return Tls(**(whole | {"server_name": "gpu.example"} | changes))

    async def said(self, given: Tls, scheme: str = "grpcs") -> str:
        endpoint = f"{scheme}://127.0.0.1:{self.port}"
        manifest = Manifest("tiny", "text-generation", "triton", endpoint, timeout_s=10, tls=given)
        request = GenerationRequest("tiny", prompt="a", sampling=Sampling(max_tokens=3, ignore_eos=True))
        async with contextlib.aclosing(TritonUpstream(manifest)) as upstream:
            return "".join([delta.text async for deltas in upstream.generate(request) for delta in deltas])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    found = World(tmp_path_factory.mktemp("gpu"))
    backends = f"--backend-directory={triton_runtime().backends}"
    child = ChildProcess(
        [str(DEPLOY / "serve.sh"), backends, "--disable-auto-complete-config", "--exit-timeout-secs=1"],
        log=found.folder / "triton.log",
        probe=lambda: tcp_answers(found.port),
        env=found.environment(),
        start_timeout_s=60,
    )
    await asyncio.to_thread(child.start)
    yield found
    await asyncio.to_thread(child.stop, 10)


async def test_a_gateway_with_its_certificate_infers(world: World) -> None:
    assert await world.said(world.given())


@pytest.mark.parametrize("who", ["nobody", "foreign", "expired", "other authority", "other name"])
async def test_whoever_cannot_prove_itself_is_refused_on_either_side(world: World, who: str) -> None:
    stranger = world.foreign.issue("gateway", client=True)
    late = world.authority.issue("gateway", client=True, expired=True)
    changes = {
        "nobody": {"cert_file": "", "key_file": ""},
        "foreign": {"cert_file": str(stranger.cert), "key_file": str(stranger.key)},
        "expired": {"cert_file": str(late.cert), "key_file": str(late.key)},
        "other authority": {"ca_file": str(world.foreign.cert)},
        "other name": {"server_name": "other.example"},
    }
    with pytest.raises(Unavailable):
        await world.said(world.given(**changes[who]))


async def test_plain_text_is_not_understood(world: World) -> None:
    with pytest.raises(Unavailable):
        await world.said(Tls(), "grpc")


async def test_a_certificate_alone_does_not_administer(world: World) -> None:
    target, files = f"127.0.0.1:{world.port}", TlsFiles("tiny", world.given())
    for secret in ("", "b" * 32):
        async with contextlib.aclosing(TritonClient(target, admin=secret, files=files)) as client:
            with pytest.raises(grpc.aio.AioRpcError, match="restricted"):
                await client.unload("tiny", 10)
    async with contextlib.aclosing(TritonClient(target, admin=SECRET, files=files)) as client:
        await client.load("tiny", 30)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"MODELS": ""}, "MODELS is empty"),
        ({"MODELS": "tiny,gone"}, "models/gone: no such model"),
        ({"CERTIFICATES": "/gone"}, "/gone/tls.crt: cannot be read"),
        ({"REPOSITORY": "/gone"}, "/gone: no such directory"),
        ({"ADMIN_FILE": "/dev/null"}, "needs 32 or more"),
    ],
)
async def test_what_is_missing_is_told_before_anything_starts(world: World, changes: dict[str, str], told: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [str(DEPLOY / "serve.sh")],
        env=world.environment(**changes),
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert done.returncode == 64
    assert told in done.stderr


async def test_without_a_secret_each_start_draws_its_own(world: World) -> None:
    shown = world.folder / "show.sh"
    shown.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    shown.chmod(0o700)
    environment = world.environment(ADMIN_FILE="", TRITONSERVER=str(shown), OTLP_HTTP="http://collector:4318/")
    run = [str(DEPLOY / "serve.sh")]
    twice = [
        (await asyncio.to_thread(subprocess.check_output, run, env=environment, text=True, timeout=10)).splitlines()
        for _ in range(2)
    ]
    first, second = ([line for line in lines if "restricted" in line] for lines in twice)
    assert first != second
    assert len(first[0].rpartition("=")[2]) == 64
    assert "--trace-config=opentelemetry,url=http://collector:4318/v1/traces" in twice[0]


async def test_the_container_writes_nothing_and_may_nothing() -> None:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["triton"]
    assert service["read_only"] is True
    assert all(volume["read_only"] for volume in service["volumes"])
    assert service["cap_drop"] == ["ALL"]
    assert service["user"] != "0"
    assert {volume["target"] for volume in service["volumes"]} >= {
        "/models",
        "/run/certificates",
        *service["entrypoint"],
    }
    assert os.access(DEPLOY / "serve.sh", os.X_OK)

"""Models come, change and go in a running Triton without a failed request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

import moltbot_models
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument, Unavailable
from moltbot_mesh.supervisor import State
from moltbot_models.engine.aio import merged
from moltbot_models.generation import GenerationRequest, Message, Sampling
from moltbot_models.manifest import Manifest
from moltbot_models.providers.triton import TritonUpstream
from moltbot_models.triton.client import TritonClient
from moltbot_models.triton.repository import ModelSpec
from moltbot_testkit.triton import running_triton, triton_runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moltbot_models.triton.server import TritonServer

pytestmark = [pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]
TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
SPEC = ModelSpec("tiny", "text-generation", TINY, {"deterministic": "true", "kv": "f32"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[TritonServer]:
    async with running_triton(triton_runtime(), []) as running:
        yield running


def ask(number: int, tokens: int = 60) -> GenerationRequest:
    messages = (Message("user", f"What is {number} times 7?"),)
    return GenerationRequest("tiny", messages=messages, sampling=Sampling(max_tokens=tokens, ignore_eos=True))


async def answer(server: TritonServer, request: GenerationRequest, model: str = "tiny") -> str:
    manifest = Manifest(model, "text-generation", "triton", server.endpoint)
    async with contextlib.aclosing(TritonUpstream(manifest)) as upstream:
        return merged([delta async for deltas in upstream.generate(request) for delta in deltas]).text


async def versions(server: TritonServer) -> dict[str, int]:
    async with contextlib.aclosing(TritonClient(server.endpoint)) as client:
        return {one.name: one.version for one in await client.statistics(5.0)}


async def test_a_model_is_placed_changed_and_withdrawn_while_requests_go_on(server: TritonServer) -> None:
    await server.place(SPEC)
    expected = [await answer(server, ask(number)) for number in range(4)]
    answered, over = 0, asyncio.Event()

    async def client(number: int) -> None:
        nonlocal answered
        while not over.is_set():
            assert await answer(server, ask(number % 4)) == expected[number % 4]
            answered += 1

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(client(number))
        for step_tokens in (64, 128, 64):
            before, first = answered, (await versions(server))["tiny"]
            await server.place(
                ModelSpec("tiny", "text-generation", TINY, {**SPEC.options, "step_tokens": str(step_tokens)})
            )
            assert (await versions(server))["tiny"] == first + 1
            async with asyncio.timeout(60):
                while answered < before + 16:
                    await asyncio.sleep(0.05)
        over.set()
    await server.withdraw("tiny")
    assert "tiny" not in await versions(server)
    with pytest.raises(Unavailable):
        await answer(server, ask(1))
    await server.withdraw("tiny")


async def test_a_version_that_cannot_be_loaded_leaves_the_old_one_in_use(server: TritonServer, tmp_path: Path) -> None:
    await server.place(SPEC)
    said = await answer(server, ask(3))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FailedPrecondition, match=r"tiny.*tokenizer\.json is missing"):
        await server.place(ModelSpec("tiny", "text-generation", tmp_path))
    with pytest.raises(InvalidArgument, match="colour"):
        await server.place(ModelSpec("tiny", "text-generation", TINY, {"colour": "1"}))
    assert await answer(server, ask(3)) == said
    await server.withdraw("tiny")


async def test_placed_models_come_back_with_a_killed_server_but_one_that_broke_is_named(
    server: TritonServer, tmp_path: Path
) -> None:
    breaks = tmp_path / "breaks"
    shutil.copytree(TINY, breaks)
    await server.place(SPEC)
    await server.place(ModelSpec("breaks", "text-generation", breaks))
    (breaks / "tokenizer.json").unlink()
    pid = server.supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while server.supervisor.pid in {pid, None} or server.supervisor.state is not State.READY:
            await asyncio.sleep(0.05)
    assert await answer(server, ask(2, tokens=4))
    assert list(server.failed) == ["breaks"]
    assert "tokenizer.json" in server.failed["breaks"]
    await server.withdraw("breaks")
    await server.withdraw("tiny")
    assert server.failed == {}

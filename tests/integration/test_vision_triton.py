"""A vision-language model in a real Triton: an ensemble of its eyes and its text model."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from moltbot_mesh.errors import FailedPrecondition, InvalidArgument
from moltbot_mesh.supervisor import State
from moltbot_models.engine import EngineConfig, TextEngine
from moltbot_models.engine.aio import merged
from moltbot_models.generation import Delta, GenerationRequest, Media, Message, Sampling
from moltbot_models.manifest import Manifest
from moltbot_models.providers.triton import TritonUpstream
from moltbot_models.store.placing import spec_of
from moltbot_models.triton.client import TritonClient
from moltbot_testkit.conversations import ask, image, message
from moltbot_testkit.random_llava import llava_config, llava_weights, write_llava
from moltbot_testkit.triton import running_triton, triton_runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moltbot_models.triton.server import TritonServer

pytestmark = [pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]
GOLDEN = Path(__file__).parents[1] / "unit/moltbot_models/vision/golden/images.json"
OPTIONS = {"weights": "f32", "kv": "f32", "deterministic": "true"}
GREEDY = {"max_tokens": 10, "temperature": 0.0, "ignore_eos": True}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    described = json.loads(GOLDEN.read_text())["files"]
    return {name: base64.b64decode(text) for name, text in described.items()}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = llava_config()
    return write_llava(tmp_path_factory.mktemp("llava"), config, llava_weights(config))


@pytest.fixture(scope="module")
def conversations(files: dict[str, bytes]) -> list[list[Message]]:
    png, jpeg, webp = (image(files[name]) for name in ("png", "jpeg", "webp"))
    return [
        [message("user", png, "what is it?")],
        [Message("user", "words alone")],
        [message("user", jpeg, "and ", webp, "differ how?")],
        [message("user", webp, "first"), Message("assistant", "seen"), message("user", png, "then")],
    ]


@pytest.fixture(scope="module")
def expected(directory: Path, conversations: list[list[Message]]) -> list[str]:
    """What the engine says in this process."""
    engine = TextEngine.load(directory, EngineConfig(weights="f32", kv="f32", deterministic=True))
    try:
        return [ask(engine, messages, **GREEDY).wait().text for messages in conversations]
    finally:
        engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[TritonServer]:
    async with running_triton(triton_runtime(), []) as running:
        yield running


@pytest.fixture(scope="module")
def manifest(directory: Path, server: TritonServer) -> Manifest:
    return Manifest("sees", "text-generation", "triton", server.endpoint, path=str(directory), options=OPTIONS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream(manifest: Manifest, server: TritonServer) -> AsyncIterator[TritonUpstream]:
    await server.place(spec_of(manifest))
    async with contextlib.aclosing(TritonUpstream(manifest)) as opened:
        yield opened


async def loaded(server: TritonServer) -> list[str]:
    async with contextlib.aclosing(TritonClient(server.endpoint)) as client:
        return [one.name for one in await client.statistics(5.0)]


async def answer(
    upstream: TritonUpstream, messages: list[Message], *, stream: bool = True, **sampling: object
) -> Delta:
    request = GenerationRequest("sees", tuple(messages), sampling=Sampling(**(GREEDY | sampling)))
    return merged([delta async for deltas in upstream.generate(request, stream=stream) for delta in deltas])


@pytest.mark.parametrize("stream", [True, False])
async def test_images_and_text_alone_are_answered_as_in_process(
    stream: bool, upstream: TritonUpstream, conversations: list[list[Message]], expected: list[str]
) -> None:
    answers = await asyncio.gather(*(answer(upstream, messages, stream=stream) for messages in conversations * 3))
    assert [one.text for one in answers] == expected * 3
    assert expected[0] != expected[2]


async def test_images_of_several_requests_are_encoded_together(
    upstream: TritonUpstream, server: TritonServer, conversations: list[list[Message]]
) -> None:
    async def encoded() -> tuple[int, int]:
        async with contextlib.aclosing(TritonClient(server.endpoint)) as client:
            (eyes,) = [one for one in await client.statistics(5.0) if "~vision-" in one.name]
            return eyes.requests, eyes.batches

    # Nothing waits for a batch to fill: where images come more slowly than they are encoded, a round may share none.
    for _ in range(10):
        before = await encoded()
        await asyncio.gather(*(answer(upstream, conversations[0]) for _ in range(48)))
        async with asyncio.timeout(10):  # Triton counts a moment after it has answered
            while (after := await encoded())[0] < before[0] + 48:
                await asyncio.sleep(0.02)
        requests, batches = (now - then for now, then in zip(after, before, strict=True))
        assert requests == 48
        if batches < 40:
            break
    else:
        pytest.fail("no round shared batches")


@pytest.mark.parametrize(
    ("media", "said"),
    [
        (Media("image", b"not an image", "image/png"), r"messages\[0\].parts\[0\].*not a PNG, JPEG or WebP"),
        (Media("audio", b"RIFF", "audio/wav"), r"messages\[0\].parts\[0\].*not audio"),
    ],
)
async def test_a_bad_part_fails_its_own_request_alone(
    media: Media, said: str, upstream: TritonUpstream, conversations: list[list[Message]], expected: list[str]
) -> None:
    good = [asyncio.ensure_future(answer(upstream, conversations[0])) for _ in range(8)]
    with pytest.raises(InvalidArgument, match=said):
        await answer(upstream, [message("user", media, "what?")])
    assert {one.text for one in await asyncio.gather(*good)} == {expected[0]}


async def test_too_many_images_exceed_the_context(upstream: TritonUpstream, files: dict[str, bytes]) -> None:
    with pytest.raises(InvalidArgument, match="prompt has") as refused:
        await answer(upstream, [message("user", *[image(files["png"])] * 40)])
    assert refused.value.reason == "CONTEXT_LENGTH_EXCEEDED"


async def test_a_client_that_leaves_stops_the_engine(
    upstream: TritonUpstream, conversations: list[list[Message]]
) -> None:
    request = GenerationRequest("sees", tuple(conversations[0]), sampling=Sampling(**GREEDY | {"max_tokens": 400}))
    stream = upstream.generate(request)
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(5):
        while (await upstream.statistics())["running"]:
            await asyncio.sleep(0.05)
    assert (await upstream.statistics())["completion_tokens"] > 0


async def test_a_version_that_cannot_be_loaded_leaves_the_former_one(
    directory: Path,
    manifest: Manifest,
    server: TritonServer,
    upstream: TritonUpstream,
    conversations: list[list[Message]],
    expected: list[str],
    tmp_path: Path,
) -> None:
    shutil.copytree(directory, tmp_path / "broken")
    (tmp_path / "broken" / "preprocessor_config.json").unlink()
    with pytest.raises(FailedPrecondition, match=r"preprocessor_config\.json is missing"):
        await server.place(spec_of(replace(manifest, path=str(tmp_path / "broken"))))
    assert (await answer(upstream, conversations[0])).text == expected[0]
    assert len(await loaded(server)) == 3


async def test_a_triton_that_was_killed_serves_it_again(
    server: TritonServer, upstream: TritonUpstream, conversations: list[list[Message]], expected: list[str]
) -> None:
    pid = server.supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while server.supervisor.pid in {pid, None} or server.supervisor.state is not State.READY:
            await asyncio.sleep(0.05)
    assert [(await answer(upstream, messages)).text for messages in conversations] == expected


async def test_it_is_reloaded_and_withdrawn_while_requests_go_on(
    manifest: Manifest,
    server: TritonServer,
    upstream: TritonUpstream,
    conversations: list[list[Message]],
    expected: list[str],
) -> None:
    answered, over = 0, asyncio.Event()

    async def client(number: int) -> None:
        nonlocal answered
        while not over.is_set():
            assert (await answer(upstream, conversations[number % 4])).text == expected[number % 4]
            answered += 1

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(client(number))
        for step_tokens in ("64", "128"):
            before = answered
            await server.place(spec_of(replace(manifest, options={**OPTIONS, "step_tokens": step_tokens})))
            async with asyncio.timeout(60):
                while answered < before + 12:
                    await asyncio.sleep(0.02)
        over.set()
    assert sorted(name.partition("-")[0] for name in await loaded(server)) == ["sees", "sees~text", "sees~vision"]
    await server.withdraw("sees")
    assert not await loaded(server)


async def test_a_directory_without_preprocessing_is_refused_by_name(
    directory: Path, server: TritonServer, manifest: Manifest, tmp_path: Path
) -> None:
    for file in directory.iterdir():
        if file.name != "preprocessor_config.json":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(FailedPrecondition, match=r"preprocessor_config\.json is missing"):
        await server.place(spec_of(replace(manifest, id="blind", path=str(tmp_path))))

"""Models in a real Triton: text that streams, stops and recovers, vectors equal to those of the encoder in process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio
from tokenizers import Tokenizer

import moltbot_models
from moltbot_mesh import supervisor
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument, Unavailable
from moltbot_mesh.supervisor import State
from moltbot_models.encoder import Classifier, Encoder, EncoderConfig
from moltbot_models.engine import EngineConfig, TextEngine
from moltbot_models.engine.aio import merged, stream
from moltbot_models.generation import (
    EmbeddingRequest,
    GenerationRequest,
    Message,
    ResponseFormat,
    Sampling,
    ScoringRequest,
)
from moltbot_models.manifest import Manifest
from moltbot_models.providers.triton import TritonUpstream
from moltbot_models.store.placing import spec_of
from moltbot_models.targets.configs import EncoderFacts
from moltbot_models.targets.configs import tokenizer as tokenizer_config
from moltbot_models.triton.client import _raw, _request
from moltbot_models.triton.repository import ModelSpec
from moltbot_testkit.random_encoder import write_encoder
from moltbot_testkit.triton import embedder_path, running_triton, triton_runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moltbot_models.generation import Delta
    from moltbot_models.triton.provision import TritonRuntime
    from moltbot_models.triton.server import TritonServer

# One server for all: each start loads OpenVINO twice.
pytestmark = [pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]
TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
TEXT_ID, EMBEDDING_ID = "tiny/text:1", "minilm"
TEXTS = (
    "A cat sits on the mat.",
    "",
    "Grüße aus Köln, 東京",
    "the price fell " * 200,
    *(f"text {n}" for n in range(70)),
)


@pytest.fixture(scope="module")
def runtime() -> TritonRuntime:
    return triton_runtime()


@pytest.fixture(scope="module")
def embedder() -> Path:
    return embedder_path()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(runtime: TritonRuntime, embedder: Path) -> AsyncIterator[TritonServer]:
    specs = [
        ModelSpec(TEXT_ID, "text-generation", TINY, {"deterministic": "true", "kv": "f32"}),
        ModelSpec(EMBEDDING_ID, "embedding", embedder, {"precision": "f32"}),
    ]
    async with running_triton(runtime, specs) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def text(server: TritonServer) -> AsyncIterator[TritonUpstream]:
    async with contextlib.aclosing(TritonUpstream(text_manifest(server))) as upstream:
        yield upstream


def text_manifest(server: TritonServer, **changes: object) -> Manifest:
    return Manifest(TEXT_ID, "text-generation", "triton", server.endpoint, **changes)


def question(
    *, max_tokens: int = 24, ignore_eos: bool = False, prompt: str = "What is 12 times 7?"
) -> GenerationRequest:
    sampling = Sampling(max_tokens=max_tokens, seed=7, logprobs=True, ignore_eos=ignore_eos)
    return GenerationRequest(TEXT_ID, messages=(Message("user", prompt),), sampling=sampling)


async def whole(upstream: TritonUpstream, request: GenerationRequest, *, stream: bool = True) -> Delta:
    return merged([delta async for deltas in upstream.generate(request, stream=stream) for delta in deltas])


async def in_process(request: GenerationRequest) -> Delta:
    config = EngineConfig(deterministic=True, threads=1, kv_cache_bytes=16 << 20)
    engine = await asyncio.to_thread(TextEngine.load, TINY, config)
    try:
        return merged([delta async for delta in stream(engine, request)])
    finally:
        await asyncio.to_thread(engine.close)


async def test_text_is_what_the_engine_in_process_says_streamed_or_whole(text: TritonUpstream) -> None:
    expected = await in_process(question())
    streamed, at_once = await asyncio.gather(whole(text, question()), whole(text, question(), stream=False))
    assert streamed.text == at_once.text == expected.text
    assert streamed.text
    assert streamed.usage == expected.usage
    assert streamed.finish_reason == expected.finish_reason
    assert [p.token_bytes for p in streamed.logprobs] == [p.token_bytes for p in expected.logprobs]


async def test_pieces_arrive_before_the_answer_is_complete(text: TritonUpstream) -> None:
    async with contextlib.aclosing(text.generate(question(max_tokens=4000, ignore_eos=True))) as begun:
        assert all(delta.finish_reason is None for delta in await anext(begun))
    pieces = [deltas async for deltas in text.generate(question(max_tokens=200, ignore_eos=True))]
    assert all(delta.finish_reason is None for deltas in pieces[:-1] for delta in deltas)
    assert pieces[-1][-1].finish_reason == "length"


async def test_closing_the_stream_frees_the_engine(text: TritonUpstream) -> None:
    before = await text.statistics()
    for _ in range(8):
        async with contextlib.aclosing(text.generate(question(max_tokens=4000, ignore_eos=True))) as pieces:
            await anext(pieces)
    assert (await whole(text, question(max_tokens=2, ignore_eos=True))).finish_reason == "length"
    async with asyncio.timeout(60):
        while (after := await text.statistics())["running"] or after["waiting"]:
            await asyncio.sleep(0.02)
    # The context ends each of them after 2,000 tokens, if nothing else does.
    assert after["completion_tokens"] - before["completion_tokens"] < 8 * 1000


async def test_a_prompt_too_long_for_the_model_is_the_callers_mistake(text: TritonUpstream) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await whole(text, question(prompt="no end " * 20_000))
    assert refused.value.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert "no end" not in refused.value.message


async def test_a_model_that_is_not_loaded_is_unavailable(server: TritonServer) -> None:
    async with contextlib.aclosing(TritonUpstream(text_manifest(server, upstream_model="absent"))) as upstream:
        with pytest.raises(Unavailable) as refused:
            await whole(upstream, question())
    assert refused.value.reason == "UPSTREAM_UNAVAILABLE"


async def test_vectors_equal_those_of_the_encoder_in_process(server: TritonServer, embedder: Path) -> None:
    encoder = await asyncio.to_thread(Encoder.load, embedder, EncoderConfig("f32", threads=1))
    expected, tokens = await asyncio.to_thread(encoder.embed, TEXTS)
    async with contextlib.aclosing(
        TritonUpstream(Manifest(EMBEDDING_ID, "embedding", "triton", server.endpoint))
    ) as up:
        await up.probe()
        found = await up.embed(EmbeddingRequest(EMBEDDING_ID, TEXTS))
        singles = await asyncio.gather(*(up.embed(EmbeddingRequest(EMBEDDING_ID, (one,))) for one in TEXTS[:12]))
    assert found.usage.prompt_tokens == tokens
    np.testing.assert_allclose(np.array(found.vectors), expected, atol=2e-5)
    np.testing.assert_allclose(np.array([one.vectors[0] for one in singles]), expected[:12], atol=2e-5)


async def test_scores_equal_those_of_the_classifier_in_process(server: TritonServer, tmp_path: Path) -> None:
    texts = ("w5 w6 w7", "w9", "w3 w4 " * 20)
    for task, labels in (("rerank", 1), ("classification", 3)):
        path, model = tmp_path / task, f"my-{task}"
        write_encoder(path, "xlm-roberta", labels)
        manifest = Manifest(model, task, "triton", server.endpoint, path=str(path), options={"precision": "f32"})
        query = "w5 w6" if task == "rerank" else None
        classifier = await asyncio.to_thread(Classifier.load, path, EncoderConfig("f32", threads=1))
        rows = classifier.rows(texts) if query is None else classifier.pairs(query, texts)
        expected, tokens = classifier.score(rows)
        await server.place(spec_of(manifest))
        async with contextlib.aclosing(TritonUpstream(manifest)) as up:
            await up.probe()
            found = await up.score(ScoringRequest(model, texts, query))
            many = ScoringRequest(model, texts * 50, query)
            assert np.array((await up.score(many)).values).shape == (150, labels)
            # Requests that share a batch, with queries of their own; one that cannot be answered hurts no other.
            asked = ["w5 w6", "w7", "w5 " * 70] if query else [None, None, None]
            mixed = await asyncio.gather(
                *(up.score(ScoringRequest(model, texts, one)) for one in asked), return_exceptions=True
            )
            with pytest.raises(InvalidArgument, match="of type"):
                await up.score(ScoringRequest(model, texts, None if query else "q"))
        await server.withdraw(model)
        assert found.labels == (() if query else ("class 0", "class 1", "class 2"))
        assert found.usage.prompt_tokens == tokens.sum()
        np.testing.assert_allclose(np.array(found.values), expected, atol=2e-5)
        assert mixed[0].values == found.values
        if query:
            assert isinstance(mixed[2], InvalidArgument)
            assert mixed[2].reason == "CONTEXT_LENGTH_EXCEEDED"


async def test_a_tokenizer_before_another_engine_says_what_the_encoder_reads(
    server: TritonServer, embedder: Path
) -> None:
    facts = EncoderFacts("gpu", "embedding", 384, 256, 16, 0, int8=False)
    folder = server._repository / "gpu-tokenizer"
    (folder / "1").mkdir(parents=True)
    template = resources.files("moltbot_models.triton").joinpath("model.py.template").read_text("utf-8")
    (folder / "1" / "model.py").write_text(template)
    (folder / "config.pbtxt").write_text(tokenizer_config(facts, str(TINY.parents[2]), str(embedder)))
    texts = ["a short text", "a longer text " * 30, "word " * 400]
    whole = Tokenizer.from_file(str(embedder / "tokenizer.json"))
    whole.no_padding()
    whole.enable_truncation(256)
    async with contextlib.aclosing(server.client()) as client:
        await client.load("gpu-tokenizer", 30)
        request = _request("gpu-tokenizer", [3, 1], {"TEXT": [text.encode() for text in texts]})
        answer = await client._ask("ModelInfer", request, 30)
        await client.unload("gpu-tokenizer", 30)
    shapes = {output.name: tuple(output.shape) for output in answer.outputs}
    rows = [whole.encode(text).ids for text in texts]
    assert shapes == {"INPUT_IDS": (3, 256), "ATTENTION_MASK": (3, 256), "TOKENS": (3, 1)}
    ids = np.frombuffer(_raw(answer, "INPUT_IDS"), "<i8").reshape(3, 256)
    assert [row[: len(own)].tolist() for row, own in zip(ids, rows, strict=True)] == rows
    assert np.frombuffer(_raw(answer, "TOKENS"), "<i4").tolist() == [len(row) for row in rows]


async def test_a_killed_server_comes_back_with_its_models(server: TritonServer, text: TritonUpstream) -> None:
    await text.probe()
    first = server.supervisor.pid
    assert first is not None
    stubs = _children(first)
    assert len(stubs) >= 2
    with pytest.raises(Unavailable) as lost:  # noqa: PT012 - the kill belongs to the stream that it breaks
        async for _ in text.generate(question(max_tokens=4000, ignore_eos=True)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)
    assert lost.value.reason == "UPSTREAM_UNAVAILABLE"
    async with asyncio.timeout(30):
        while server.supervisor.state is State.READY and server.supervisor.pid in {first, None}:
            await asyncio.sleep(0.02)
        assert server.missing()
        await server.wait_ready(30)
        assert (await whole(text, question())).text
    assert server.missing() == []
    assert server.supervisor.restarts == 1
    assert not _alive(stubs), "the killed server's Python processes are still there"
    assert server.supervisor.pid != first


async def test_an_answer_keeps_to_its_format_in_triton_too(text: TritonUpstream) -> None:
    wanted = ResponseFormat("regex", "[0-9]{3}-(ja|nein)")
    answer = await whole(text, dataclasses.replace(question(), response_format=wanted))
    assert re.fullmatch(wanted.text, answer.text)
    assert answer.finish_reason == "stop"
    hopeless = dataclasses.replace(question(), response_format=ResponseFormat("regex", "("))
    with pytest.raises(InvalidArgument, match="regex cannot be used"):
        await whole(text, hopeless)


async def test_engines_tell_what_they_count(server: TritonServer, text: TritonUpstream) -> None:
    before = await text.statistics()
    answer = await whole(text, question(max_tokens=7, ignore_eos=True))
    after = await text.statistics()
    assert answer.usage is not None
    assert after["completion_tokens"] - before["completion_tokens"] == 7
    assert after["running"] == after["waiting"] == 0
    assert after["blocks_free"] + after["blocks_cached"] == after["blocks_total"]
    manifest = Manifest(EMBEDDING_ID, "embedding", "triton", server.endpoint)
    async with contextlib.aclosing(TritonUpstream(manifest)) as up:
        before = await up.statistics()
        await up.embed(EmbeddingRequest(EMBEDDING_ID, TEXTS[:5]))
        async with asyncio.timeout(10):  # Triton counts a moment after it has answered
            while (after := await up.statistics())["requests"] == before["requests"]:
                await asyncio.sleep(0.02)
    assert after["requests"] - before["requests"] == 5
    assert after["batches"] - before["batches"] == 1
    assert after["failures"] == before["failures"]
    assert after["batches_of_5"] - before.get("batches_of_5", 0) == 1


async def test_failures_of_a_text_model_are_those_of_its_engine(text: TritonUpstream) -> None:
    before = await text.statistics()
    with pytest.raises(InvalidArgument):
        await whole(text, dataclasses.replace(question(), response_format=ResponseFormat("regex", "(")))
    assert (await text.statistics())["failures"] == before["failures"]  # the caller's mistake, not the engine's


async def test_only_the_owner_can_reach_the_socket(server: TritonServer) -> None:
    socket = Path(server.endpoint.removeprefix("unix:"))
    assert socket.is_socket()
    assert socket.parent.stat().st_mode & 0o777 == 0o700


async def test_a_model_that_cannot_load_is_told_at_once_with_its_reason(runtime: TritonRuntime, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    broken = ModelSpec("broken", "text-generation", tmp_path)
    with pytest.raises(FailedPrecondition, match=r"broken.*tokenizer\.json is missing") as raised:
        async with asyncio.timeout(60), running_triton(runtime, [broken], ready_s=120):
            pass
    assert "Traceback" not in raised.value.message
    assert "At:" not in raised.value.message


async def test_a_server_that_hangs_is_started_again(
    runtime: TritonRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_ALIVE_INTERVAL_S", 0.2)
    monkeypatch.setattr(supervisor, "_ALIVE_TIMEOUT_S", 1.0)
    async with running_triton(runtime, [ModelSpec("text", "text-generation", TINY)], ready_s=60) as server:
        first = server.supervisor.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        async with asyncio.timeout(60):
            while server.supervisor.restarts == 0 or server.supervisor.state is not State.READY:
                await asyncio.sleep(0.05)
        assert server.supervisor.pid not in {first, None}


def _children(pid: int) -> list[int]:
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def _alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if "triton_python" in _name(pid)]


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""

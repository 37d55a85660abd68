"""The text engine as others use it: in a process of its own, from asyncio, and with the shipped model."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from moltbot_models.engine import EngineConfig, TextEngine
from moltbot_models.engine.aio import merged, stream
from moltbot_models.generation import GenerationRequest, Message, Sampling, ToolSpec
from moltbot_testkit.engine import Halts
from moltbot_testkit.random_model import model_config, random_weights, write_model

LIBS = Path(__file__).parents[2] / "libs"
SHIPPED = LIBS / "moltbot_models/shipped/tiny"

ALONE = """
import json, sys, threading
from pathlib import Path
from moltbot_models.engine import EngineConfig, TextEngine
from moltbot_models.generation import GenerationRequest, Sampling

engine = TextEngine.load(Path(sys.argv[1]), EngineConfig())
deltas, ended = [], threading.Event()
def put(delta):
    deltas.append(delta)
    if delta.finish_reason:
        ended.set()
request = GenerationRequest("m", prompt="go", sampling=Sampling(max_tokens=9, ignore_eos=True))
engine.submit(request, put, on_error=print)
assert ended.wait(30)
engine.close()
roots = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"tokens": deltas[-1].usage.completion_tokens, "modules": roots}))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    config = model_config("qwen3", hidden_size=128, max_position_embeddings=4096, vocab_size=1024)
    return write_model(tmp_path_factory.mktemp("model"), config, random_weights(config))


def test_the_engine_runs_where_nothing_else_of_ours_can_be_imported(directory, tmp_path):
    (tmp_path / "moltbot_models").symlink_to(LIBS / "moltbot_models")
    result = subprocess.run(
        [sys.executable, "-c", ALONE, str(directory)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["tokens"] == 9
    assert not {"grpc", "google", "moltbot_mesh", "aiohttp", "torch", "transformers"} & set(report["modules"])


async def test_a_hundred_clients_that_come_and_go_leave_nothing_behind(directory):
    engine = TextEngine.load(directory, EngineConfig(step_tokens=64, kv_cache_bytes=2 << 20))
    draw = random.Random(5)

    async def client(number):
        await asyncio.sleep(draw.random())
        prompt = "a shared beginning of every prompt. " * draw.randrange(1, 20) + str(number)
        sampling = Sampling(max_tokens=draw.randrange(1, 60), temperature=1.0, ignore_eos=True)
        leaves_after = draw.choice([None, None, 0, 1, 5])
        seen = []
        deltas = stream(engine, GenerationRequest("m", prompt=prompt, sampling=sampling, tenant=str(number % 3)))
        try:
            async for delta in deltas:
                seen.append(delta)
                if leaves_after is not None and len(seen) > leaves_after:
                    return
        finally:
            await deltas.aclose()
        assert merged(seen).usage.completion_tokens == sampling.max_tokens

    try:
        async with asyncio.timeout(90), asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(client(number))
        async with asyncio.timeout(10):
            while engine.stats().running or engine.stats().waiting:
                await asyncio.sleep(0.01)
        stats = engine.stats()
        assert stats.failures == 0
        assert stats.cached_tokens > 0
        assert stats.blocks_free + stats.blocks_cached == stats.blocks_total
    finally:
        engine.close()


async def test_a_long_prompt_does_not_stop_a_running_stream(directory):
    engine = TextEngine.load(directory, EngineConfig(step_tokens=32))
    order, halts = [], Halts()

    async def watch(name, prompt, max_tokens, hook=None):
        sampling = Sampling(max_tokens=max_tokens, ignore_eos=True, logprobs=True)
        async for delta in stream(engine, GenerationRequest("m", prompt=prompt, sampling=sampling), hook=hook):
            order.extend([name] * len(delta.logprobs))

    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(watch("short", "go", 400, halts))
            while len(order) < Halts.TOKENS:
                await asyncio.sleep(0.001)
            begun = len(order)
            group.create_task(watch("long", "word " * 600, 1))
            while not engine.stats().waiting:
                await asyncio.sleep(0.001)
            halts.go.set()
        # 3,000 tokens at 31 a step are about 97 steps, and each gives the short stream a token.
        assert order.index("long") - begun > 80
    finally:
        engine.close()


@pytest.fixture(scope="module")
def shipped():
    engine = TextEngine.load(SHIPPED)
    yield engine
    engine.close()


async def whole(engine, *messages, tools=(), **sampling):
    request = GenerationRequest("tiny", messages, tools=tools, sampling=Sampling(max_tokens=120, **sampling))
    return merged([delta async for delta in stream(engine, request)])


async def test_the_shipped_model_answers_and_ends_by_itself(shipped):
    answer = await whole(shipped, Message("user", "Hello! Who are you?"), temperature=0.0)
    assert answer.text.strip()
    assert answer.finish_reason == "stop"


async def test_the_shipped_model_calls_a_tool_that_is_offered(shipped):
    schema = '{"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}'
    tools = (ToolSpec("calculator", "Evaluate an arithmetic expression exactly.", schema),)
    answer = await whole(shipped, Message("user", "What is 17 * 23?"), tools=tools, temperature=0.0)
    assert answer.finish_reason == "tool_calls"
    assert answer.tool_calls[0].name == "calculator"
    assert json.loads(answer.tool_calls[0].arguments) == {"expression": "17 * 23"}


async def test_the_shipped_model_repeats_itself_for_a_seed(shipped):
    question = Message("user", "Tell me something about the sea.")
    first = await whole(shipped, question, temperature=1.0, seed=11)
    again = await whole(shipped, question, temperature=1.0, seed=11)
    other = await whole(shipped, question, temperature=1.0, seed=12)
    assert first.text == again.text
    assert first.text != other.text

"""Greedy answers about images are those of transformers, whatever is batched, cut, preempted or cached.

The golden file is `recipes/goldens/vision.py`'s.
"""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from moltbot_models.engine import EngineConfig, TextEngine
from moltbot_models.engine.aio import stream
from moltbot_models.generation import GenerationRequest, Message
from moltbot_testkit.conversations import ask, image, message
from moltbot_testkit.engine import held
from moltbot_testkit.random_llava import llava_weights, write_llava

GOLDEN = json.loads((Path(__file__).parent / "golden" / "greedy.json").read_text())
CASES, CONVERSATIONS = GOLDEN["cases"], GOLDEN["conversations"]
EXACT = EngineConfig(weights="f32", kv="f32", step_tokens=64, kv_cache_bytes=4 << 20)
GREEDY = {"max_tokens": 12, "min_tokens": 12, "temperature": 0.0, "ignore_eos": True, "logprobs": True}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Engines by case and settings, closed at the end."""
    engines = []

    def load(case, **changes):
        config = CASES[case]["config"]
        path = write_llava(tmp_path_factory.mktemp(case), config, llava_weights(config, len(case)))
        engines.append(TextEngine.load(path, replace(EXACT, **changes)))
        return engines[-1]

    yield load
    for engine in engines:
        engine.close()


def conversation(label, files):
    shown = iter(CONVERSATIONS[label]["images"])
    return [
        message(role, *(part["text"] if part["type"] == "text" else image(files[next(shown)]) for part in parts))
        for role, parts in CONVERSATIONS[label]["turns"]
    ]


def tokens_of(engine, answer):
    """Token ids; every token of the byte tokenizer has bytes of its own."""
    known = {engine._directory.vocabulary.bytes_of(token): token for token in range(260)}
    assert len(known) == 260
    return [known[raw] for raw in answer.raw]


def assert_golden(engine, case, label, answer):
    length, *tokens = CASES[case]["answers"][label]
    answer.wait()
    assert answer.usage.prompt_tokens == length
    assert tokens_of(engine, answer) == tokens, label


@pytest.mark.parametrize("case", CASES)
def test_text_and_images_in_one_batch_are_answered_as_transformers_answers(case, loaded, files):
    engine = loaded(case)
    answers = {label: ask(engine, conversation(label, files), **GREEDY) for label in CONVERSATIONS}
    for label, answer in answers.items():
        assert_golden(engine, case, label, answer)


@pytest.mark.parametrize("step_tokens", [7, 19])
def test_an_image_may_be_cut_anywhere(step_tokens, loaded, files):
    engine = loaded("clip-llama", step_tokens=step_tokens)
    for label in CONVERSATIONS:
        assert_golden(engine, "clip-llama", label, ask(engine, conversation(label, files), **GREEDY))


def test_preempted_requests_see_their_images_again(loaded, files):
    blocks, block_bytes = 8, 2 * 2 * 2 * 32 * 32 * 4
    engine = loaded("clip-llama", kv_cache_bytes=blocks * block_bytes)
    long = GREEDY | {"max_tokens": 90}
    labels = ("one", "other", "two", "last")
    with held(engine):
        answers = [(label, ask(engine, conversation(label, files), **long)) for label in labels]
    for label, answer in answers:
        answer.wait()
        assert tokens_of(engine, answer)[:12] == CASES["clip-llama"]["answers"][label][1:], label
    stats = engine.stats()
    assert stats.preemptions > 0
    assert stats.blocks_free + stats.blocks_cached == blocks
    # The whole texts, not their beginnings alone: one at a time nothing is preempted.
    for label, answer in answers:
        assert ask(engine, conversation(label, files), **long).wait().text == answer.text


def test_the_deterministic_mode_says_the_same(loaded, files):
    engine = loaded("clip-llama", deterministic=True, step_tokens=32)
    answers = {label: ask(engine, conversation(label, files), **GREEDY) for label in CONVERSATIONS}
    for label, answer in answers.items():
        assert_golden(engine, "clip-llama", label, answer)


def test_the_same_image_is_found_in_the_prefix_cache_and_another_is_not(loaded, files):
    engine = loaded("clip-llama")

    def cached(data, tenant="a"):
        words = "which is asked in words enough to fill a block or two, and then some more"
        answer = ask(engine, [message("user", image(data), words)], tenant=tenant, **GREEDY).wait()
        return answer.usage.cached_tokens, tokens_of(engine, answer)

    fresh, first = cached(files["png"])
    again, same = cached(files["png"])
    other, different = cached(files["webp"])
    assert (fresh, other) == (0, 0), "an image was taken for another"
    assert again >= 64
    assert same == first
    assert different != first
    assert cached(files["png"], tenant="b")[0] == 0, "one tenant found what another had shown"


def test_the_text_before_an_image_is_shared(loaded, files):
    engine = loaded("clip-llama")
    before = "a long text that every conversation begins with, longer than two blocks of the cache"
    for name, least in (("png", 0), ("webp", 64)):
        answer = ask(engine, [message("user", before, image(files[name]))], **GREEDY).wait()
        assert answer.usage.cached_tokens >= least
    assert answer.usage.cached_tokens < len(before) + 32


async def test_images_wait_in_a_thread_of_their_own(loaded, files):
    engine = loaded("clip-llama")
    look = GenerationRequest("m", tuple(conversation("one", files)))
    words = GenerationRequest("m", (Message("user", "words"),))
    assert engine.executor_for(words) is None
    held, seen = threading.Event(), engine.executor_for(look)
    blocked = seen.submit(held.wait, 30)
    waits = asyncio.ensure_future(anext(stream(engine, look)))
    assert await anext(stream(engine, words)), "text waited for an image"
    assert not waits.done()
    held.set()
    assert (await waits).text
    assert blocked.result()

"""The engine's greedy text is what transformers itself answers, whatever is batched, joins, leaves or is preempted.

The file is written by `recipes/goldens/greedy.py`.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moltbot_models.engine import TextEngine
from moltbot_models.generation import GenerationRequest, Sampling
from moltbot_testkit.engine import held
from moltbot_testkit.random_model import random_weights, stored_as, weights_sha256, write_model

GOLDEN = json.loads((Path(__file__).parent / "golden" / "greedy.json").read_text())
PROMPTS, TOKENS = GOLDEN["prompts"], 72
BLOCK = 32


@pytest.fixture(scope="module", params=GOLDEN["cases"], ids=lambda case: case["name"])
def case(request, tmp_path_factory):
    """A golden case and the directory of its model, drawn anew."""
    golden = request.param
    weights = stored_as(random_weights(golden["config"], golden["seed"]), golden["stored"])
    assert weights_sha256(weights) == golden["weights_sha256"], "numpy draws other numbers: write the golden anew"
    directory = tmp_path_factory.mktemp("model")
    write_model(directory, golden["config"], weights, files=golden["files"])
    return golden, directory


@pytest.fixture(scope="module")
def plain(case, exact):
    engine = TextEngine.load(case[1], exact)
    yield engine
    engine.close()


def said(engine, answer):
    """Token ids of an answer with logprobs; the tokenizer's tokens have bytes of their own."""
    tokens = {engine._directory.vocabulary.bytes_of(token): token for token in range(259)}
    assert len(tokens) == 259
    return [tokens[raw] for raw in answer.wait().raw]


def test_the_cases_are_of_every_family_rope_and_storage():
    cases = GOLDEN["cases"]
    assert {case["config"]["model_type"] for case in cases} == {"llama", "qwen2", "qwen3", "mistral"}
    ropes = {(case["config"].get("rope_scaling") or {}).get("rope_type", "default") for case in cases}
    assert ropes == {"default", "linear", "dynamic", "llama3", "yarn"}
    assert {case["stored"] for case in cases} == {"F32", "F16", "BF16"}
    assert {case["config"]["tie_word_embeddings"] for case in cases} == {True, False}
    lengths = {len(prompt) for prompt in PROMPTS}
    assert min(lengths) == 1
    assert max(lengths) > 256
    different = [len(set(answer)) for case in cases for answer in case["answers"]]
    assert np.median(different) > TOKENS // 4, "a model that repeats itself proves little"


def test_mixed_lengths_in_one_batch(case, plain, ask):
    answers = [ask(plain, prompt, max_tokens=TOKENS, ignore_eos=True, logprobs=True) for prompt in PROMPTS]
    assert [said(plain, answer) for answer in answers] == case[0]["answers"]


def test_one_joins_and_one_leaves_at_every_step(case, plain, new_answer):
    """The engine's own thread submits the next one with every token of the first."""
    golden, _ = case
    plan = [(place % len(PROMPTS), 1 + place % 5) for place in range(TOKENS - 1)]
    later, running = [new_answer() for _ in plan], []

    def submit(prompt, count, answer, on_delta):
        sampling = Sampling(max_tokens=count, ignore_eos=True, logprobs=True, temperature=0.0)
        # A tenant each: nobody finds another's prompt in the cache.
        request = GenerationRequest("m", prompt=PROMPTS[prompt], tenant=str(id(answer)), sampling=sampling)
        plain.submit(request, on_delta, on_error=answer.fail)

    first, joined = new_answer(), iter(zip(plan, later, strict=True))

    def step(delta):
        running.append(plain.stats().running)
        following = next(joined, None)
        if following is not None:
            (prompt, count), answer = following
            submit(prompt, count, answer, answer.put)
        first.put(delta)

    submit(0, TOKENS, first, step)
    assert said(plain, first) == golden["answers"][0]
    for (prompt, count), answer in zip(plan, later, strict=True):
        assert said(plain, answer) == golden["answers"][prompt][:count]
    assert max(running) > 3


def test_preempted_ones_begin_again_and_say_the_same(case, exact, ask):
    golden, directory = case
    config = golden["config"]
    block_bytes = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * BLOCK * config["head_dim"] * 4
    longest = max(map(len, PROMPTS)) + TOKENS
    # The longest fits and little beside it.
    blocks = math.ceil(longest / BLOCK) + 2
    engine = TextEngine.load(directory, replace(exact, kv_cache_bytes=blocks * block_bytes))
    try:
        assert engine.stats().blocks_total == blocks
        wanted = [3, 1, 3, 1, 3, 1, 5, 4, 2, 0, 3, 1]
        with held(engine):
            answers = [
                ask(engine, PROMPTS[number], max_tokens=TOKENS, ignore_eos=True, logprobs=True, tenant=str(place))
                for place, number in enumerate(wanted)
            ]
        assert [said(engine, answer) for answer in answers] == [golden["answers"][number] for number in wanted]
        assert engine.stats().preemptions > 0
    finally:
        engine.close()

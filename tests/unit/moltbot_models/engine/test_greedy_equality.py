"""The engine's greedy text is the numpy decoder's, whatever is batched, preempted or cached."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moltbot_models.engine import TextEngine
from moltbot_testkit.engine import held
from moltbot_testkit.numpy_decoder import NumpyDecoder
from moltbot_testkit.random_model import model_config, random_weights, write_model

SHAPES = {
    "llama": model_config("llama"),
    "llama-untied-biased": model_config("llama", tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "llama-linear-rope": model_config("llama", rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "llama-3-rope": model_config(
        "llama",
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "qwen2-head-64": model_config("qwen2", head_dim=64, num_attention_heads=4),
    "qwen3-head-128": model_config("qwen3", head_dim=128, num_attention_heads=4, tie_word_embeddings=False),
    "mistral-one-kv-head": model_config("mistral", num_key_value_heads=1, sliding_window=512),
    "mistral-head-48": model_config("mistral", head_dim=48, num_key_value_heads=6),
}
PROMPTS = ["a", "mixed lengths " * 3, "b" * 33, "a longer one, over several steps " * 8, "c" * 64]


def ids(engine, prompt):
    return engine._directory.tokenizer.encode(prompt).ids


def answered(engine, answer):
    """Return the token ids of an answer with logprobs; every token of the byte tokenizer has bytes of its own."""
    tokens = {engine._directory.vocabulary.bytes_of(token): token for token in range(259)}
    assert len(tokens) == 259
    return [tokens[raw] for raw in answer.wait().raw]


def assert_greedy(engine, reference, prompt, answer, count):
    tokens = answered(engine, answer)
    assert len(tokens) == count
    assert reference.greedy(ids(engine, prompt), tokens) == tokens


@pytest.mark.parametrize("shape", SHAPES)
def test_mixed_prompts_in_one_batch_give_the_reference_text(shape, tmp_path, exact, ask):
    config = SHAPES[shape]
    weights = random_weights(config, seed=len(shape))
    reference = NumpyDecoder(config, weights)
    engine = TextEngine.load(write_model(tmp_path, config, weights), exact)
    try:
        answers = [ask(engine, prompt, max_tokens=8, ignore_eos=True, logprobs=True) for prompt in PROMPTS]
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            assert_greedy(engine, reference, prompt, answer, 8)
            expected = answered(engine, answer)
            logits = reference.logits(ids(engine, prompt) + expected[:-1])[-8:]
            wanted = logits[np.arange(8), expected] - np.log(np.exp(logits).sum(-1))
            got = [logprob.logprob for delta in answer.deltas for logprob in delta.logprobs]
            np.testing.assert_allclose(got, wanted, atol=2e-4)
    finally:
        engine.close()


def test_requests_that_join_while_others_run_change_nothing(llama_directory, exact, ask):
    config = model_config("llama")
    reference = NumpyDecoder(config, random_weights(config))
    engine = TextEngine.load(llama_directory, exact)
    try:
        answers = []
        for prompt in PROMPTS:
            answers.append(ask(engine, prompt, max_tokens=24, ignore_eos=True, logprobs=True))
            answers[-1].started.wait(10)
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            assert_greedy(engine, reference, prompt, answer, 24)
    finally:
        engine.close()


def test_preempted_requests_still_give_the_reference_text(llama_directory, exact, ask):
    config = model_config("llama")
    reference = NumpyDecoder(config, random_weights(config))
    blocks = 9
    block_bytes = 2 * 2 * 2 * 32 * 32 * 4
    engine = TextEngine.load(llama_directory, replace(exact, kv_cache_bytes=blocks * block_bytes))
    try:
        assert engine.stats().blocks_total == blocks
        prompts = [letter * 20 for letter in "abcd"]
        with held(engine):
            answers = [ask(engine, prompt, max_tokens=140, ignore_eos=True, logprobs=True) for prompt in prompts]
        for prompt, answer in zip(prompts, answers, strict=True):
            assert_greedy(engine, reference, prompt, answer, 140)
        stats = engine.stats()
        assert stats.preemptions > 0
        assert stats.blocks_free + stats.blocks_cached == blocks
    finally:
        engine.close()


def test_a_cached_prefix_is_used_and_gives_the_same_text(engine, ask):
    config = model_config("llama")
    reference = NumpyDecoder(config, random_weights(config))
    shared = "a prefix that many requests begin with, longer than some blocks. " * 3
    first = ask(engine, shared + "one", max_tokens=6, ignore_eos=True, logprobs=True, tenant="t").wait()
    again = ask(engine, shared + "two", max_tokens=6, ignore_eos=True, logprobs=True, tenant="t").wait()
    other = ask(engine, shared + "two", max_tokens=6, ignore_eos=True, logprobs=True, tenant="u").wait()
    assert first.last.usage.cached_tokens == 0
    assert again.last.usage.cached_tokens == len(shared) // 32 * 32
    assert other.last.usage.cached_tokens == 0, "one tenant found what another had asked"
    assert again.raw == other.raw
    assert_greedy(engine, reference, shared + "two", again, 6)


@pytest.mark.parametrize("weights", ["u8", "i8", "bf16"])
@pytest.mark.parametrize("compute", ["f32", "bf16"])
def test_compressed_models_stay_close_to_the_reference(llama_directory, exact, ask, weights, compute):
    config = model_config("llama")
    reference = NumpyDecoder(config, random_weights(config))
    engine = TextEngine.load(llama_directory, replace(exact, weights=weights, compute=compute, kv="u8"))
    try:
        prompt = "how close are compressed weights to the exact ones?"
        answer = ask(engine, prompt, max_tokens=1, logprobs=True, top_logprobs=20, ignore_eos=True).wait()
        logits = reference.logits(ids(engine, prompt))[-1]
        exact_logprobs = logits - np.log(np.exp(logits).sum())
        (logprob,) = answer.last.logprobs
        top = {one.token_bytes: one.logprob for one in logprob.top if one.token_bytes}
        differences = [
            abs(exact_logprobs[token] - top[raw])
            for token in range(259)
            if (raw := engine._directory.vocabulary.bytes_of(token)) in top
        ]
        assert len(differences) > 10
        assert np.mean(differences) < 0.35
    finally:
        engine.close()

from __future__ import annotations

import pytest

from moltbot_models.engine import EngineConfig, EngineError, TextEngine
from moltbot_testkit.random_model import model_config, random_weights, write_model

SAMPLED = {"max_tokens": 40, "temperature": 1.0, "ignore_eos": True, "logprobs": True, "seed": 7}


@pytest.fixture(scope="module", params=["u8", "f32"])
def steady(request, tmp_path_factory):
    # A model wide enough for the plugin's optimised kernels, which are what could differ.
    config = model_config("qwen2", hidden_size=256, intermediate_size=512, num_attention_heads=8, head_dim=64)
    directory = write_model(tmp_path_factory.mktemp("steady"), config, random_weights(config))
    engine = TextEngine.load(
        directory, EngineConfig(deterministic=True, weights=request.param, step_tokens=64, kv_cache_bytes=32 << 20)
    )
    yield engine
    engine.close()


def probabilities(answer):
    return [logprob.logprob for delta in answer.deltas for logprob in delta.logprobs]


def test_a_seed_gives_the_same_text_alone_and_in_a_full_batch(steady, ask):
    prompt = "the same words every time, over more than one chunk of the prompt; " * 3
    alone = ask(steady, prompt, **SAMPLED).wait()
    crowd = [ask(steady, f"{number} other " * (1 + 5 * number), **SAMPLED | {"seed": number}) for number in range(12)]
    crowded = ask(steady, prompt, **SAMPLED)
    more = [ask(steady, f"{number} late " * 9, **SAMPLED | {"seed": number}) for number in range(6)]
    assert crowded.wait().raw == alone.raw
    assert probabilities(crowded) == probabilities(alone), "equal to the last bit, not by luck of the draw"
    for answer in crowd + more:
        answer.wait()


def test_bf16_arithmetic_is_refused_because_it_depends_on_the_batch(llama_directory):
    with pytest.raises(EngineError, match="deterministic") as refused:
        TextEngine.load(llama_directory, EngineConfig(deterministic=True, compute="bf16"))
    assert refused.value.reason == "INVALID_ARGUMENT"

"""A stateful OpenVINO IR is served as the model it was exported from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest

from moltbot_models.engine import EngineConfig, EngineError, TextEngine
from moltbot_testkit.engine import held
from moltbot_testkit.numpy_decoder import NumpyDecoder
from moltbot_testkit.random_model import model_config, random_weights, write_model
from moltbot_testkit.stateful_ir import write_stateful_ir

CONFIG = model_config("llama", tie_word_embeddings=False)
PROMPTS = ["a", "mixed lengths " * 3, "b" * 33, "a longer one, over several steps " * 8]


@pytest.fixture(scope="module")
def weights():
    return random_weights(CONFIG, seed=11)


@pytest.fixture(scope="module")
def ir_directory(tmp_path_factory, weights):
    # The architecture's name does not matter: the graph is in the IR.
    directory = write_model(tmp_path_factory.mktemp("ir"), CONFIG | {"architectures": ["Other"]}, weights)
    (directory / "model.safetensors").unlink()
    write_stateful_ir(directory, CONFIG, weights)
    return directory


def refusal(directory, **changes):
    with pytest.raises(EngineError) as refused:
        TextEngine.load(directory, EngineConfig(**changes))
    return refused.value


def copied(source, target):
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_mixed_prompts_give_the_reference_text_also_when_preempted(ir_directory, weights, exact, ask):
    reference = NumpyDecoder(CONFIG, weights)
    blocks = 12
    engine = TextEngine.load(ir_directory, replace(exact, kv_cache_bytes=blocks * 2 * 2 * 2 * 32 * 32 * 4))
    try:
        assert engine.stats().blocks_total == blocks
        with held(engine):
            answers = [ask(engine, prompt, max_tokens=120, ignore_eos=True, logprobs=True) for prompt in PROMPTS]
        ids = {engine._directory.vocabulary.bytes_of(token): token for token in range(259)}
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            tokens = [ids[raw] for raw in answer.wait().raw]
            assert len(tokens) == 120
            prompt_ids = engine._directory.tokenizer.encode(prompt).ids
            assert reference.greedy(prompt_ids, tokens) == tokens
            logits = reference.logits(prompt_ids + tokens[:-1])[-120:]
            wanted = logits[np.arange(120), tokens] - np.log(np.exp(logits).sum(-1))
            got = [logprob.logprob for delta in answer.deltas for logprob in delta.logprobs]
            np.testing.assert_allclose(got, wanted, atol=2e-4)
        assert engine.stats().preemptions > 0
        # The tables of the rotation and the repeated epsilon are constants too.
        assert engine.stats().parameters >= sum(one.size for one in weights.values() if one.ndim == 2)
    finally:
        engine.close()


def test_safetensors_beside_an_ir_are_what_is_served(tmp_path, ir_directory, weights):
    directory = copied(ir_directory, tmp_path / "both")
    write_model(directory, CONFIG, weights)
    engine = TextEngine.load(directory)
    try:
        assert engine.stats().parameters == sum(one.size for one in weights.values())
    finally:
        engine.close()


def test_a_sliding_window_is_refused_where_it_would_matter(tmp_path, ir_directory):
    directory = copied(ir_directory, tmp_path / "window")
    config = json.loads((directory / "config.json").read_text()) | {"sliding_window": 128}
    (directory / "config.json").write_text(json.dumps(config))
    assert "sliding_window 128" in str(refusal(directory))
    engine = TextEngine.load(directory, EngineConfig(context_length=128))
    engine.close()


def test_a_context_beyond_the_models_own_is_refused(ir_directory):
    assert refusal(ir_directory, context_length=513).reason == "INVALID_ARGUMENT"


@pytest.mark.parametrize("file", ["openvino_model.xml", "openvino_model.bin"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_ir_is_refused(tmp_path, ir_directory, file, damage):
    directory = copied(ir_directory, tmp_path / "damaged")
    content = (directory / file).read_bytes()
    (directory / file).unlink()
    if damage == "cut":
        (directory / file).write_bytes(content[: len(content) // 2])
    assert refusal(directory).reason == "MODEL_INVALID"


def other_model(name, *, state=False):
    ids = ops.parameter([-1, -1], ov.Type.i64)
    ids.output(0).get_tensor().set_names({name})
    rows = ops.gather(ops.constant(np.ones((259, 8), np.float32)), ids, ops.constant(np.int64(0)))
    sinks = []
    if state:
        past = ops.read_value(ops.constant(np.zeros((1, 8), np.float32)), "ssm", ov.Type.f32, ov.PartialShape([1, 8]))
        rows = ops.add(rows, past)
        sinks = [ops.assign(past, "ssm")]
    logits = ops.matmul(rows, ops.constant(np.ones((259, 8), np.float32)), transpose_a=False, transpose_b=True)
    logits.output(0).get_tensor().set_names({"logits"})
    return ov.Model([ops.result(logits)], sinks, [ids], "other")


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (other_model("input_ids"), "stateful"),
        (other_model("pixel_values", state=True), "pixel_values"),
        (other_model("input_ids", state=True), "paged|states"),
    ],
)
def test_an_ir_that_is_no_attention_decoder_says_why(tmp_path, ir_directory, model, named):
    directory = copied(ir_directory, tmp_path / "other")
    ov.save_model(model, directory / "openvino_model.xml")
    error = refusal(directory)
    assert error.reason == "MODEL_UNSUPPORTED"
    assert named.partition("|")[0] in str(error) or named.rpartition("|")[2] in str(error)

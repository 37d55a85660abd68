"""What is read from a directory, and what is refused by name."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from moltbot_models.engine.architecture import read_architecture
from moltbot_models.engine.config import EngineConfig, EngineError, checked
from moltbot_models.engine.engine import TextEngine
from moltbot_models.engine.safetensors import Checkpoint, StoredTensor, stacked
from moltbot_testkit.random_model import model_config, random_weights, write_model, write_safetensors


def refusal(call):
    with pytest.raises(EngineError) as refused:
        call()
    return refused.value


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, "MixtralForCausalLM"),
        ({"architectures": ["Qwen2MoeForCausalLM"]}, "Qwen2MoeForCausalLM"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "Qwen3MoeForCausalLM"),
        ({"architectures": ["DeepseekV3ForCausalLM"]}, "DeepseekV3ForCausalLM"),
        ({"architectures": ["Gemma2ForCausalLM"]}, "Gemma2ForCausalLM"),
        ({"architectures": None}, "model_type llama"),
        ({"rope_scaling": {"type": "su", "factor": 2.0}}, "rope scaling su"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "rope scaling mrope"),
        ({"rope_parameters": {"full_attention": {}, "sliding_attention": {}}}, "each of full_attention, sliding"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "partial_rotary_factor 0.25"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0}}, "rope scaling longrope"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
    ],
)
def test_what_is_not_built_is_refused_by_name(changes, named):
    error = refusal(lambda: read_architecture(model_config("llama") | changes, None))
    assert error.reason == "MODEL_UNSUPPORTED"
    assert named in str(error)


@pytest.mark.parametrize(("family", "extra"), [("mistral", {}), ("qwen2", {"use_sliding_window": True})])
def test_a_sliding_window_is_refused_where_it_would_matter(family, extra):
    config = model_config(family, sliding_window=128, **extra)
    assert "sliding_window 128" in str(refusal(lambda: read_architecture(config, None)))
    assert read_architecture(config, 128).context_length == 128


def test_a_config_that_says_nothing_means_what_its_family_takes_for_granted():
    mistral = model_config("mistral", max_position_embeddings=8192, num_attention_heads=8)
    del mistral["num_key_value_heads"]
    assert "sliding_window 4096" in str(refusal(lambda: read_architecture(mistral, None)))
    assert read_architecture(mistral, 4096).kv_heads == 8
    assert read_architecture(mistral | {"sliding_window": None}, None).context_length == 8192
    qwen = model_config("qwen3")
    del qwen["head_dim"]
    assert read_architecture(qwen, None).head_size == 128


def test_a_sliding_window_that_is_switched_off_is_none():
    assert read_architecture(model_config("qwen2", sliding_window=128, use_sliding_window=False), None)


def test_a_context_beyond_the_models_own_is_refused():
    assert refusal(lambda: read_architecture(model_config("llama"), 513)).reason == "INVALID_ARGUMENT"


def test_missing_numbers_are_named():
    error = refusal(lambda: read_architecture(model_config("llama", hidden_size=None), None))
    assert error.reason == "MODEL_INVALID"
    assert "hidden_size" in str(error)


@pytest.mark.parametrize("kind", ["float32", "float16", "bf16"])
def test_every_stored_kind_is_read_exactly(tmp_path, kind):
    values = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)
    stored = (values.view(np.uint32) >> 16).astype(np.uint16) if kind == "bf16" else values.astype(kind)
    write_safetensors(tmp_path / "model.safetensors", {"w": stored})
    tensor = Checkpoint(tmp_path).tensor("w", (2, 2))
    np.testing.assert_array_equal(tensor.to_f32(), values)
    np.testing.assert_array_equal((tensor.to_bf16().astype(np.uint32) << 16).view(np.float32), values)


@pytest.mark.parametrize(("second", "kind"), [("F16", "F16"), ("BF16", "F32")])
def test_tensors_are_stacked_without_loss_whatever_they_are_stored_as(second, kind):
    one, two = np.array([[1.5, -2.0]], np.float32), np.array([[0.25, 3.0], [4.0, -1.0]], np.float32)
    stored = (two.view(np.uint32) >> 16).astype(np.uint16) if second == "BF16" else two.astype(np.float16)
    both = stacked([StoredTensor("a", "F16", one.astype(np.float16)), StoredTensor("b", second, stored)])
    assert (both.name, both.kind) == ("a and b", kind)
    np.testing.assert_array_equal(both.to_f32(), np.concatenate([one, two]))


def test_bf16_rounds_to_nearest_even(tmp_path):
    bits = np.array([0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001], np.uint32)
    write_safetensors(tmp_path / "model.safetensors", {"w": bits.view(np.float32)})
    assert Checkpoint(tmp_path).tensor("w", (4,)).to_bf16().tolist() == [0x3F80, 0x3F80, 0x3F82, 0x3F81]


def test_shards_are_joined(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"one": np.ones(3, np.float32)})
    write_safetensors(tmp_path / "b.safetensors", {"two": np.ones(4, np.float32)})
    index = {"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = Checkpoint(tmp_path)
    assert "one" in checkpoint
    assert checkpoint.parameters == 7


@pytest.mark.parametrize("shard", ["../a.safetensors", "/etc/passwd", "missing.safetensors", ".."])
def test_a_shard_outside_the_directory_is_refused(tmp_path, shard):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"one": shard}}))
    assert refusal(lambda: Checkpoint(tmp_path)).reason == "MODEL_INVALID"


def file_with(header):
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + b"\0" * 8


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 3) + b"{]}",
        file_with({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        file_with({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}),
        file_with({"w": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}),
        file_with({"w": {"dtype": "F32"}}),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert refusal(lambda: Checkpoint(tmp_path)).reason == "MODEL_INVALID"


def test_a_tensor_of_another_shape_or_none_at_all_is_named(tmp_path):
    config = model_config("llama")
    weights = random_weights(config)
    del weights["model.layers.1.mlp.up_proj.weight"]
    directory = write_model(tmp_path, config, weights)
    assert "model.layers.1.mlp.up_proj.weight" in str(refusal(lambda: TextEngine.load(directory)))
    directory = write_model(tmp_path, config | {"hidden_size": 64}, random_weights(config))
    assert "config.json implies" in str(refusal(lambda: TextEngine.load(directory)))


def test_an_empty_directory_says_what_it_lacks(tmp_path):
    assert "config.json" in str(refusal(lambda: TextEngine.load(tmp_path)))


@pytest.mark.parametrize(
    "config",
    [
        EngineConfig(kv="bf16"),
        EngineConfig(kv="f32", compute="bf16"),
        EngineConfig(step_tokens=0),
        EngineConfig(chunk_tokens=-1),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(config):
    assert refusal(lambda: checked(config)).reason == "INVALID_ARGUMENT"


def test_a_cache_too_small_for_anything_says_how_much_it_takes(llama_directory):
    error = refusal(lambda: TextEngine.load(llama_directory, EngineConfig(kv_cache_bytes=100)))
    assert "give at least" in str(error)

"""Compressed matrices are near what they were made of, and the graph computes with exactly what they say."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moltbot_models.engine import EngineError, TextEngine
from moltbot_models.engine.quantize import pack_nibbles, quantize_asymmetric, quantize_groups, quantize_symmetric
from moltbot_models.engine.safetensors import StoredTensor
from moltbot_models.engine.weights import Matrix
from moltbot_testkit.numpy_decoder import NumpyDecoder
from moltbot_testkit.random_model import model_config, random_weights, write_model

MATRICES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 4).map(lambda count: 16 * count)),
    elements=st.floats(-1e4, 1e4, width=32),
)


def in_full(values, scale, zero=0):
    return (values.astype(np.float64) - zero) * scale


@given(MATRICES)
def test_groups_of_4_bits_stray_by_one_step_at_most(matrix):
    values, scale, zero = quantize_groups(matrix, 16)
    grouped = matrix.reshape(values.shape)
    assert values.max() <= 15
    assert zero.max() <= 15
    # Half a step of rounding, and another half where the zero point's own rounding moves the end of the range.
    assert (np.abs(in_full(values, scale, zero) - grouped) <= scale * 1.001 + 1e-9).all()
    assert (in_full(values, scale, zero)[grouped == 0] == 0).all(), "zero stays zero"


@given(MATRICES)
def test_rows_of_8_bits_stray_by_one_step_at_most(matrix):
    values, scale, zero = quantize_asymmetric(matrix)
    assert (np.abs(in_full(values, scale, zero) - matrix) <= scale * 1.001 + 1e-9).all()
    values, scale = quantize_symmetric(matrix)
    assert (np.abs(in_full(values, scale) - matrix) <= scale * 0.501 + 1e-9).all()


NIBBLES = st.tuples(st.integers(1, 4), st.integers(1, 8).map(lambda count: 2 * count))


@given(hnp.arrays(np.uint8, NIBBLES, elements=st.integers(0, 15)))
def test_the_first_of_two_numbers_lies_in_the_low_half(values):
    packed = pack_nibbles(values)
    assert (packed & 15 == values[:, ::2]).all()
    assert (packed >> 4 == values[:, 1::2]).all()


def evaluated(node):
    compiled = ov.Core().compile_model(ov.Model([ov.opset13.add(node, np.float32(0))], [], "m"), "CPU")
    return next(iter(compiled({}).values()))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_the_graph_reads_what_the_quantizer_wrote(kind):
    values = np.random.default_rng(1).standard_normal((6, 192)).astype(np.float32)
    data = {"F32": values, "F16": values.astype(np.float16), "BF16": (values.view(np.uint32) >> 16).astype(np.uint16)}
    stored = StoredTensor("w", kind, data[kind])
    wanted = in_full(*quantize_groups(stored.to_f32(), 64)).reshape(6, 192)
    np.testing.assert_allclose(evaluated(Matrix(stored, "u4").factor()), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("columns", "group"), [(192, 64), (96, 32), (80, 16)])
def test_a_row_that_64_does_not_divide_has_smaller_groups(columns, group):
    matrix = Matrix(StoredTensor("w", "F32", np.ones((2, columns), np.float32)), "u4")
    assert list(matrix._values.shape) == [2, columns // group, group]


def test_a_row_that_no_group_divides_is_refused_by_name():
    with pytest.raises(EngineError, match=r'mlp\.weight has rows of 100.*64, 32, 16.*weights="u8"') as refused:
        Matrix(StoredTensor("mlp.weight", "F32", np.ones((2, 100), np.float32)), "u4")
    assert refused.value.reason == "MODEL_UNSUPPORTED"


@pytest.mark.parametrize("precision", ["u4", "u8", "i8", "bf16"])
def test_a_large_matrix_is_compressed_with_little_memory_beside_it(precision):
    stored = StoredTensor("w", "F16", np.ones((4096, 16384), np.float16))  # 256 MiB in float32
    tracemalloc.start()
    try:
        Matrix(stored, precision)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def as_served(config, weights):
    """The weights as `u4` keeps them: the layers' in groups, the words' in rows of 8 bits."""
    out = {}
    for name, value in weights.items():
        if value.ndim == 1:
            out[name] = value
        elif "layers" in name:
            group = next(size for size in (64, 32, 16) if value.shape[1] % size == 0)
            out[name] = in_full(*quantize_groups(value, group)).reshape(value.shape)
        else:
            out[name] = in_full(*quantize_asymmetric(value))
    return out


@pytest.mark.parametrize(
    "config",
    [
        model_config("llama"),
        model_config("qwen2", tie_word_embeddings=False, hidden_size=128),
        model_config("qwen3", head_dim=16, intermediate_size=208),
    ],
    ids=["groups-of-32", "groups-of-64-untied", "groups-of-16"],
)
def test_a_model_in_4_bits_says_what_its_rounded_weights_say(config, tmp_path, exact, ask):
    weights = random_weights(config, seed=5)
    reference = NumpyDecoder(config, as_served(config, weights))
    # Deterministic: no rounding of activations, so that the weights alone are what differs from full precision.
    engine = TextEngine.load(write_model(tmp_path, config, weights), replace(exact, weights="u4", deterministic=True))
    try:
        tokens = {engine._directory.vocabulary.bytes_of(token): token for token in range(259)}
        for prompt in ("a", "four bits " * 9):
            answer = ask(engine, prompt, max_tokens=24, ignore_eos=True, logprobs=True).wait()
            said = [tokens[raw] for raw in answer.raw]
            assert reference.greedy(engine._directory.tokenizer.encode(prompt).ids, said) == said
    finally:
        engine.close()

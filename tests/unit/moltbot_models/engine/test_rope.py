"""Rotary tables are those of transformers for every scaling that is built."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moltbot_models.engine import EngineError, TextEngine
from moltbot_models.engine.architecture import read_architecture
from moltbot_models.engine.rope import rotary_tables
from moltbot_testkit.random_model import model_config, random_weights, write_model

# Of transformers 5.23's `ROPE_INIT_FUNCTIONS` for heads of 32 numbers.
GOLDEN = json.loads((Path(__file__).parent / "golden" / "rope.json").read_text())
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["config"]["rope_scaling"]["rope_type"])
def test_tables_equal_transformers(case):
    config = model_config("llama") | {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 3}
    rope = read_architecture(config | case["config"], None).rope
    cosine, sine = rotary_tables(rope, 32, 200)
    angles = np.outer(np.arange(200, dtype=np.float32), np.float32(case["inverse_frequencies"]))
    scale = case["attention_factor"]
    np.testing.assert_allclose(cosine, scale * np.cos(np.tile(angles, 2)), atol=2e-5)
    np.testing.assert_allclose(sine, scale * np.sin(np.tile(angles, 2)), atol=2e-5)


def test_yarn_stretches_the_context_that_the_file_states():
    stated = model_config("llama") | {"max_position_embeddings": 64, "rope_scaling": YARN}
    assert read_architecture(stated, None).context_length == 256
    assert read_architecture(stated, 100).context_length == 100
    with pytest.raises(EngineError, match="beyond the model's limit of 256"):
        read_architecture(stated, 257)


@pytest.mark.parametrize("scaling", [{"rope_type": "yarn"}, {"rope_type": "yarn", "factor": 0.5}])
def test_a_yarn_that_cannot_be_is_refused(scaling):
    with pytest.raises(EngineError, match="yarn") as refused:
        read_architecture(model_config("llama") | {"rope_scaling": scaling}, None)
    assert refused.value.reason == "MODEL_INVALID"


def test_a_model_with_yarn_answers_beyond_its_original_length(tmp_path, exact, ask):
    config = model_config("llama", max_position_embeddings=64, rope_scaling=YARN)
    engine = TextEngine.load(write_model(tmp_path, config, random_weights(config)), exact)
    try:
        answer = ask(engine, "long " * 30, max_tokens=40, ignore_eos=True)
        assert answer.wait().deltas[-1].usage.completion_tokens == 40
    finally:
        engine.close()

"""A directory is told apart by what it holds, and what cannot be served is named before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import moltbot_models
from moltbot_mesh.errors import InvalidArgument
from moltbot_models.store.source import inspect
from moltbot_testkit.random_model import model_config, random_weights, write_model

TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"


def test_a_decoder_is_a_text_model():
    found = inspect(TINY)
    assert (found.format, found.task, found.architecture) == ("huggingface", "text-generation", "LlamaForCausalLM")
    assert found.context_length == 2048
    assert inspect(TINY, 512).context_length == 512


def test_bert_is_an_embedder(tmp_path):
    write_model(tmp_path, model_config("llama"), random_weights(model_config("llama")))
    config = {"architectures": ["BertModel"], "max_position_embeddings": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert inspect(tmp_path).task == "embedding"
    assert inspect(tmp_path).context_length == 128


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (lambda d: (d / "config.json").write_text("[]"), "JSON object"),
        (lambda d: (d / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "pytorch_model.bin is not read"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\x00" * 9), "damaged or cut off"),
        (lambda d: (d / "config.json").write_text('{"architectures": ["MixtralForCausalLM"]}'), "MixtralForCausalLM"),
        (lambda d: (d / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}'), "encoders built are"),
    ],
)
def test_what_cannot_be_served_is_named(tmp_path, change, said):
    write_model(tmp_path, model_config("llama"), random_weights(model_config("llama")))
    change(tmp_path)
    with pytest.raises(InvalidArgument, match=said):
        inspect(tmp_path)


def test_a_directory_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InvalidArgument, match="no such directory"):
        inspect(tmp_path / "none")

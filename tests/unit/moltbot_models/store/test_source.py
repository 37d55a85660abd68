"""A directory is told apart by what it holds, and what cannot be served is named before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

import moltbot_models
from moltbot_mesh.errors import InvalidArgument
from moltbot_models.manifest import Manifest
from moltbot_models.store.placing import spec_of
from moltbot_models.store.source import inspect
from moltbot_testkit.random_encoder import write_encoder
from moltbot_testkit.random_llava import llava_config, llava_weights, write_llava
from moltbot_testkit.random_model import model_config, random_weights, write_model

TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"


def test_a_decoder_is_a_text_model():
    found = inspect(TINY)
    assert (found.format, found.task, found.architecture) == ("huggingface", "text-generation", "LlamaForCausalLM")
    assert found.context_length == 2048
    assert inspect(TINY, 512).context_length == 512


@pytest.mark.parametrize(
    ("family", "labels", "task"),
    [
        ("bert", 0, "embedding"),
        ("xlm-roberta", 0, "embedding"),
        ("xlm-roberta", 1, "rerank"),
        ("bert", 3, "classification"),
    ],
)
def test_what_an_encoder_does_is_told_by_its_head(tmp_path, family, labels, task):
    write_encoder(tmp_path, family, labels)
    found = inspect(tmp_path)
    assert (found.task, found.context_length) == (task, 64 if family == "bert" else 62)


def test_an_encoder_that_is_not_built_is_named(tmp_path):
    write_encoder(tmp_path, hidden_act="relu")
    with pytest.raises(InvalidArgument, match="gelu"):
        inspect(tmp_path)


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


def test_a_vision_language_model_takes_images(tmp_path):
    config = llava_config()
    write_llava(tmp_path, config, llava_weights(config))
    found = inspect(tmp_path)
    assert (found.task, found.takes_images, found.context_length) == ("text-generation", True, 512)
    assert spec_of(Manifest("sees", "text-generation", "triton", path=str(tmp_path))).image_rows == (16, 96)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("preprocessor_config.json", '{"image_processor_type": "LlavaNextImageProcessor"}', "LlavaNextImageProcessor"),
        ("preprocessor_config.json", '{"crop_size": 64}', "takes 32 pixels"),
        ("config.json", '{"architectures": ["LlavaNextForConditionalGeneration"]}', "LlavaForConditionalGeneration"),
    ],
)
def test_eyes_that_are_not_built_are_named_before_anything_is_added(file, text, said, tmp_path):
    config = llava_config()
    write_llava(tmp_path, config, llava_weights(config))
    (tmp_path / file).write_text(text)
    with pytest.raises(InvalidArgument, match=said):
        inspect(tmp_path)

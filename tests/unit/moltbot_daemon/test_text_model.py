"""A model directory that is damaged is told at once, not by an engine that fails again and again."""

from __future__ import annotations

import json
import shutil

import pytest

from moltbot_daemon.inference import shipped_model, text_model
from moltbot_daemon.settings import InferenceSettings
from moltbot_mesh.errors import InvalidArgument


@pytest.fixture
def directory(tmp_path):
    return shutil.copytree(shipped_model(), tmp_path / "model")


def test_the_shipped_model_is_whole(directory):
    assert text_model(InferenceSettings()) == shipped_model()
    assert text_model(InferenceSettings(model_path=directory)) == directory


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_missing_is_told(directory, name):
    (directory / name).unlink()
    with pytest.raises(InvalidArgument, match=str(directory)):
        text_model(InferenceSettings(model_path=directory))


def header(text: str) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"\xff"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n"),
        ("model.safetensors", b""),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        ("model.safetensors", header("[]")),
        ("model.safetensors", header("{}")),
        ("model.safetensors", header('{"a": 1}')),
        ("model.safetensors", header(json.dumps({"a": {"data_offsets": [0, 1]}}))),
    ],
)
def test_a_file_that_is_damaged_is_named(directory, name, content):
    (directory / name).write_bytes(content)
    with pytest.raises(InvalidArgument, match=name):
        text_model(InferenceSettings(model_path=directory))


def test_weights_that_are_cut_off_are_told(directory):
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(InvalidArgument, match="cut off"):
        text_model(InferenceSettings(model_path=directory))

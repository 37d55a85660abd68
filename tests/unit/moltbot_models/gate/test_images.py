"""The rows of images in less than FP32 are judged beside their reference."""

from __future__ import annotations

import pytest

from moltbot_models.gate.judge import bounds_of, judge
from moltbot_models.gate.texts import GateTexts
from moltbot_models.manifest import Manifest
from moltbot_testkit.random_llava import llava_config, llava_weights, write_llava

TEXTS = GateTexts(("one text to judge by", "and another"), ("a third",))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    config = llava_config()
    return write_llava(tmp_path_factory.mktemp("llava"), config, llava_weights(config))


def judged(directory, bounds=(), **options):
    manifest = Manifest("sees", "text-generation", "triton", path=str(directory), options=options)
    report = judge(manifest, "0" * 64, TEXTS, bounds_of("text-generation", dict(bounds)))
    assert report is not None
    return {(check.name, check.texts): check for check in report.checks}


def test_a_tower_in_bf16_is_compared_with_fp32(directory):
    checks = judged(directory, compute="bf16", weights="bf16")
    for texts in ("calibration", "held_out"):
        check = checks["image_cosine_mean", texts]
        assert 0.99 < check.value < 1.0
        assert check.bound == 0.995


def test_a_tower_in_fp32_has_nothing_to_be_compared_with(directory):
    assert not [name for name, _ in judged(directory, weights="u8") if name.startswith("image")]


def test_the_bound_can_be_set(directory):
    checks = judged(directory, {"image_cosine_mean": "0.9999999"}, compute="bf16", weights="bf16")
    assert not checks["image_cosine_mean", "held_out"].passed

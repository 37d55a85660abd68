"""Calibration finds ranges, INT8 layers run as INT8 and stay close to FP32, and a stale artifact is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moltbot_models.encoder import Classifier, Encoder, EncoderConfig, EncoderError
from moltbot_models.encoder.calibrate import calibrate, write_ranges
from moltbot_models.encoder.checkpoint import EncoderCheckpoint
from moltbot_models.encoder.graph import build_graph
from moltbot_models.encoder.processor import largest_weight_of, quickest_float_of
from moltbot_models.encoder.quantized import RANGES_FILE, EncoderRanges, LinearRange, quantized_linear
from moltbot_models.encoder.runtime import compile_encoder
from moltbot_models.encoder.shape import EncoderShape
from moltbot_models.engine.config import EngineError
from moltbot_testkit.random_encoder import write_encoder

if TYPE_CHECKING:
    from pathlib import Path

    from moltbot_models.encoder.calibrate import EncoderTask

SAMPLES = [" ".join(f"w{3 + (7 * n + length) % 40}" for n in range(length)) for length in range(1, 41)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8")
    write_encoder(path)
    write_ranges(path / RANGES_FILE, calibrate(path, SAMPLES, budget=1.0, threads=1))
    return path


def test_chosen_layers_run_as_int8_and_vectors_stay_close(directory: Path) -> None:
    shape, checkpoint = EncoderShape.read(directory), EncoderCheckpoint(directory / "model.safetensors")
    ranges = EncoderRanges.from_json((directory / RANGES_FILE).read_text())
    compiled = compile_encoder(build_graph(shape, checkpoint, ranges=ranges.groups), "bf16", 1, directory)
    kinds = [
        node.get_rt_info()["primitiveType"].astype(str)
        for node in compiled.get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    ]
    # Query, key and value, and the two of the feed-forward net, in each of two layers; the attention's output stays.
    assert sum(kind.endswith("_i8") for kind in kinds) == 10
    exact, _ = Encoder.load(directory, EncoderConfig(threads=1, precision="f32")).embed(SAMPLES)
    found, _ = Encoder.load(directory, EncoderConfig(threads=1, precision="int8")).embed(SAMPLES)
    assert (exact * found).sum(1).min() > 0.998


def test_layers_that_cost_more_than_the_budget_stay_as_they_are(directory: Path) -> None:
    costs = EncoderRanges.from_json((directory / RANGES_FILE).read_text()).costs
    told: list[float] = []
    budget = sum(sorted(max(cost, 0.0) for cost in costs.values())[:2])
    found = calibrate(directory, SAMPLES, budget=budget, threads=1, progress=lambda _, share: told.append(share))
    assert 0 < len(found.groups) < len(costs) == 6
    assert sum(found.costs[name] for name in found.groups) <= budget + 1e-9
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    ("family", "labels", "task"), [("bert", 1, "rerank"), ("xlm-roberta", 1, "rerank"), ("bert", 4, "classification")]
)
def test_rerankers_and_classifiers_are_calibrated_within_a_budget_and_stay_close(
    tmp_path: Path, family: str, labels: int, task: EncoderTask
) -> None:
    identity = {"activation_fn": "torch.nn.modules.linear.Identity"}
    write_encoder(tmp_path, family, labels, sentence_transformers=identity)
    all_of_it = calibrate(tmp_path, SAMPLES, task=task, budget=1.0, threads=1)
    assert len(all_of_it.groups) == len(all_of_it.costs) == 6
    assert min(all_of_it.costs.values()) > 0
    dearest = max(all_of_it.costs, key=lambda name: all_of_it.costs[name])
    some = calibrate(
        tmp_path, SAMPLES, task=task, budget=sum(all_of_it.costs.values()) - all_of_it.costs[dearest] / 2, threads=1
    )
    assert 0 < len(some.groups) < 6
    assert calibrate(tmp_path, SAMPLES, task=task, budget=0.0, threads=1).groups == {}
    write_ranges(tmp_path / RANGES_FILE, all_of_it)
    exact, found, near = (
        scores_of(tmp_path, task, EncoderConfig(precision, threads=1)) for precision in ("f32", "int8", "bf16")
    )
    assert not np.array_equal(found, near)
    assert np.square(found - exact).sum() < 0.05 * np.square(exact - exact.mean(0)).sum()


def scores_of(path: Path, task: EncoderTask, config: EncoderConfig) -> np.ndarray:
    model = Classifier.load(path, config)
    if task == "classification":
        return model.classify(SAMPLES)[0]
    return np.concatenate([model.rerank(query, SAMPLES)[0] for query in SAMPLES[:3]])


def test_a_reranker_of_several_classes_is_not_calibrated(tmp_path: Path) -> None:
    write_encoder(tmp_path, "bert", 3)
    with pytest.raises(EngineError, match="one class"):
        calibrate(tmp_path, SAMPLES, task="rerank", threads=1)


def test_classifiers_without_ranges_say_how_to_mend_it(tmp_path: Path) -> None:
    write_encoder(tmp_path, "bert", 2)
    with pytest.raises(EncoderError, match="calibrate the model anew"):
        Classifier.load(tmp_path, EncoderConfig("int8", threads=1))


def test_ranges_come_back_from_their_file(directory: Path) -> None:
    text = (directory / RANGES_FILE).read_text()
    found = EncoderRanges.from_json(text)
    assert found.to_json() == text
    with pytest.raises(ValueError, match="version"):
        EncoderRanges.from_json(json.dumps(json.loads(text) | {"version": 9}))


@pytest.mark.parametrize("damage", ["{}", "[]", '{"version": 1', "missing", "other weights"])
def test_int8_without_ranges_for_these_weights_says_how_to_mend_it(tmp_path: Path, damage: str) -> None:
    write_encoder(tmp_path)
    if damage == "other weights":
        write_ranges(tmp_path / RANGES_FILE, EncoderRanges("0" * 64, "", {}, {}))
    elif damage != "missing":
        (tmp_path / RANGES_FILE).write_text(damage)
    with pytest.raises(EncoderError, match="calibrate the model anew"):
        Encoder.load(tmp_path, EncoderConfig(threads=1, precision="int8"))


def test_the_bias_takes_in_the_shift_and_the_mean_of_the_rounding() -> None:
    draw = np.random.default_rng(1)
    seen = (draw.standard_normal((500, 16)) * draw.uniform(0.1, 20, 16) + draw.uniform(-5, 5, 16)).astype(np.float32)
    weight, bias = draw.standard_normal((8, 16)).astype(np.float32), draw.standard_normal(8).astype(np.float32)
    span = LinearRange.measured(seen, [weight])
    codes, steps, corrected = quantized_linear(weight, bias, span)
    found = (seen - span.shift) / span.scale @ (codes * steps).T + corrected
    exact = seen @ weight.T + bias
    np.testing.assert_allclose(found.mean(0), exact.mean(0), atol=2e-3)
    assert np.abs(found - exact).std() < 0.02 * exact.std()


@pytest.mark.parametrize(
    ("flags", "largest"),
    [
        ("fpu avx avx2 fma", 64),
        ("fpu avx2 avx512f avx512bw", 64),
        ("fpu avx2 avx512f avx512_vnni", 127),
        ("fpu avx2 avx_vnni", 127),
    ],
)
def test_weights_leave_room_for_sums_in_16_bits(flags: str, largest: int) -> None:
    told = f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n"
    assert largest_weight_of(told) == largest
    assert largest_weight_of("processor\t: 0\nFeatures\t: asimddp\n") == 127
    codes, steps, _ = quantized_linear(
        np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32),
        np.zeros(2, np.float32),
        LinearRange(*(np.full(32, value, np.float32) for value in (0, 1, 0)), bound=1.0),
        largest,
    )
    assert np.abs(codes.astype(int)).max() == largest
    assert np.abs(codes * steps).max() == pytest.approx(1, abs=1e-6)
    # Activations are stored from 0 to 255 where sums are of 16 bits.
    assert largest == 127 or 2 * 255 * largest < 1 << 15


@pytest.mark.parametrize(
    ("vendor", "flags", "quickest"),
    [
        ("GenuineIntel", "fpu avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile", "bf16"),
        ("AuthenticAMD", "fpu avx2 avx512f avx512_vnni avx512_bf16", "bf16"),
        ("GenuineIntel", "fpu avx2 avx512f avx512_vnni avx512_bf16", "f32"),
        ("AuthenticAMD", "fpu avx avx2", "f32"),
    ],
)
def test_auto_takes_the_arithmetic_that_is_quickest_on_the_processor(vendor: str, flags: str, quickest: str) -> None:
    told = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\nbugs\t\t:\n"
    assert quickest_float_of(told) == quickest
    assert quickest_float_of("") == "f32"


@pytest.mark.parametrize("quickest", ["bf16", "f32"])
def test_layers_that_are_not_in_int8_have_the_arithmetic_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, quickest: str
) -> None:
    monkeypatch.setattr("moltbot_models.encoder.config.quickest_float", lambda: quickest)
    assert EncoderConfig().arithmetic == EncoderConfig("int8").arithmetic == quickest
    assert EncoderConfig(rest="bf16").arithmetic == EncoderConfig("int8", rest="bf16").arithmetic == "bf16"
    assert (EncoderConfig("bf16").arithmetic, EncoderConfig("f32").arithmetic) == ("bf16", "f32")


def test_ranges_are_of_tokens_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoder(tmp_path)
    seen: list[int] = []
    measured = LinearRange.measured
    monkeypatch.setattr(
        LinearRange, "measured", lambda tokens, weights: seen.append(len(tokens)) or measured(tokens, weights)
    )
    texts = ["w3 w4 w5", "w4 w5 w6 w7 w8 w9 w10 w11"]
    calibrate(tmp_path, texts, budget=0.0, threads=1)
    encoder = Encoder.load(tmp_path, EncoderConfig("f32", threads=1))
    assert set(seen) == {encoder.embed(texts)[1]}

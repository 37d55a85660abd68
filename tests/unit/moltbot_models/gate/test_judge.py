"""Models are judged as they are served: what is near its reference passes, what is not is told with its figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import moltbot_models
from moltbot_mesh.errors import InvalidArgument
from moltbot_models.encoder import Encoder, EncoderConfig
from moltbot_models.encoder.calibrate import calibrate, write_ranges
from moltbot_models.encoder.quantized import RANGES_FILE
from moltbot_models.engine import EngineConfig, TextEngine
from moltbot_models.engine.config import EngineError
from moltbot_models.gate import text
from moltbot_models.gate.judge import bounds_of, judge
from moltbot_models.gate.texts import GateTexts, shipped_texts
from moltbot_models.manifest import Manifest
from moltbot_testkit.random_encoder import write_encoder

if TYPE_CHECKING:
    from moltbot_models.gate.report import GateReport

TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
WORDS = [" ".join(f"w{3 + (7 * n + k) % 40}" for k in range(1 + n % 30)) for n in range(60)]
TEXTS = GateTexts(tuple(WORDS[:40]), tuple(WORDS[40:]))


def judged(path: Path, task: str, bounds: dict[str, str] | None = None, **options: str) -> GateReport | None:
    manifest = Manifest("m", task, "triton", path=str(path), options=options)  # pyright: ignore[reportArgumentType]
    texts = shipped_texts() if task == "text-generation" else TEXTS
    return judge(manifest, "0" * 64, texts, bounds_of(task, bounds or {}))


def test_the_shipped_model_passes_as_it_is_served() -> None:
    found = judged(TINY, "text-generation")
    assert found is not None
    assert found.passed
    figures = {(check.name, check.texts): check.value for check in found.checks}
    assert len(figures) == 4
    assert 0 < figures["kl_mean", "held_out"] < 0.02
    assert 0.95 < figures["greedy_agreement", "held_out"] <= 1


def test_a_model_that_4_bits_hurt_is_refused_with_the_figures() -> None:
    found = judged(TINY, "text-generation", weights="u4")
    assert found is not None
    assert found.precision == "u4 weights, f32 arithmetic, u8 cache"
    figures = {(check.name, check.texts): check.value for check in found.checks}
    assert 0.02 < figures["kl_mean", "held_out"] < 0.1
    assert {check.name for check in found.checks if not check.passed} == {"kl_mean", "greedy_agreement"}


def test_texts_whose_distributions_take_too_much_memory_are_judged_in_parts() -> None:
    held: list[int] = []

    class Watching(text._Reference):
        def __init__(self) -> None:
            super().__init__()
            kept.append(self)

    kept: list[Watching] = []
    texts = shipped_texts()
    calibration, held_out = texts.calibration[:5], texts.held_out[:4]
    # Deterministic: what a part gives does not hang on which texts happen to share a step.
    config = EngineConfig(kv_cache_bytes=16 << 20, deterministic=True)
    exact = EngineConfig(weights="f32", kv="f32", kv_cache_bytes=16 << 20, deterministic=True)

    def load(config: EngineConfig) -> TextEngine:
        held.append(sum(row.nbytes for one in kept[-1:] for rows in one.logprobs.values() for row in rows))
        return TextEngine.load(TINY, config)

    subject = text.TextUnderTest("m", "0" * 64, "u8", lambda: load(config), lambda: load(exact))
    whole = text.judge_text(subject, calibration, held_out)
    engine = TextEngine.load(TINY, config)
    engine.close()
    one_text = text.STEPS * engine.vocabulary * 4
    held.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_Reference", Watching)
        shares: list[float] = []
        parts = text.judge_text(
            subject, calibration, held_out, progress=lambda _, share: shares.append(share), most_bytes=2 * one_text + 1
        )
    assert held[1::2] == [2 * one_text] * 4 + [one_text]
    assert shares == sorted(shares)
    for one, other in zip(whole.checks, parts.checks, strict=True):
        assert (one.name, one.texts, one.samples) == (other.name, other.texts, other.samples)
        assert one.value == pytest.approx(other.value, rel=0.05)


def test_a_model_in_full_precision_is_its_own_reference() -> None:
    assert judged(TINY, "text-generation", weights="f32", kv="f32") is None


def test_a_bound_that_is_not_kept_fails_by_name() -> None:
    found = judged(TINY, "text-generation", {"kl_mean": "0"})
    assert found is not None
    assert [check.name for check in found.checks if not check.passed] == ["kl_mean", "kl_mean"]


def test_figures_are_those_of_the_distributions() -> None:
    mine, theirs = np.log([0.5, 0.25, 0.25]), np.log([0.25, 0.5, 0.25])
    watched = text._Watched()
    context = type("C", (), {"request": type("R", (), {"request_id": "0"}), "answered": 0})
    watched.told.alter([mine.astype(np.float32) + 3], [context])  # type: ignore[list-item]
    row = theirs.astype(np.float32) - 2
    watched.alter([row], [context])  # type: ignore[list-item]
    assert watched.divergences["0"] == [pytest.approx(0.25 * np.log(2), rel=1e-5)]
    assert watched.agreed["0"] == [False]
    assert int(row.argmax()) == 0, "it is made to say what the reference said"
    assert np.isneginf(row[1:]).all()


@pytest.mark.parametrize(("task", "labels"), [("embedding", 0), ("rerank", 1), ("classification", 3)])
def test_encoders_of_every_task_are_judged(tmp_path: Path, task: str, labels: int) -> None:
    write_encoder(tmp_path, labels=labels)
    assert judged(tmp_path, task, precision="f32") is None
    found = judged(tmp_path, task, precision="bf16")
    assert found is not None
    assert {check.texts for check in found.checks} == {"calibration", "held_out"}
    assert all(np.isfinite(check.value) for check in found.checks)


def test_auto_is_judged_as_the_coarsest_that_it_becomes_on_any_machine(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    found = judged(tmp_path, "embedding")
    assert found is not None
    assert found.precision == "bf16"


def test_int8_is_judged_with_the_other_layers_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoder(tmp_path)
    write_ranges(tmp_path / RANGES_FILE, calibrate(tmp_path, WORDS[:20], budget=1.0, threads=1))
    monkeypatch.setattr("moltbot_models.encoder.config.quickest_float", lambda: "f32")
    asked: list[EncoderConfig] = []
    load = Encoder.load
    monkeypatch.setattr(Encoder, "load", lambda path, config: asked.append(config) or load(path, config))
    found = judged(tmp_path, "embedding", precision="int8")
    assert found is not None
    assert found.precision == "int8"
    assert [config.arithmetic for config in asked] == ["bf16", "f32"]


def test_what_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    (tmp_path / RANGES_FILE).write_text("{}")
    with pytest.raises(EngineError, match="calibrate the model anew"):
        judged(tmp_path, "embedding", precision="int8")


@pytest.mark.parametrize("bounds", [{"colour": "1"}, {"kl_mean": "much"}, {"k": "3"}])
def test_a_bound_that_is_none_is_refused(bounds: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match=f"--bound {next(iter(bounds))}"):
        bounds_of("text-generation", bounds)

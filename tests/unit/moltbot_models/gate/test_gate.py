"""A report keeps its figures, names what falls short, and lets through nothing that was not measured."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moltbot_mesh.errors import FailedPrecondition, InvalidArgument
from moltbot_models.gate import Check, GateFailed, GateReport
from moltbot_models.gate.encoder import EncoderBounds, EncoderUnderTest, agreement, judge_encoder
from moltbot_models.gate.report import hash_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CALIBRATION, HELD_OUT = [f"calibration {n}" for n in range(80)], [f"held out {n}" for n in range(40)]
GOOD = Check("greedy_agreement", "held_out", 0.99, 0.98, "at_least", 12)
BAD = Check("kl_mean", "held_out", 0.2, 0.05, "at_most", 12)


def report(*checks: Check) -> GateReport:
    return GateReport("m", "0" * 64, "int8", "f32", hash_of(CALIBRATION), checks)


def exact(texts: Sequence[str]) -> NDArray[np.float32]:
    rows = [np.random.default_rng(list(text.encode())).standard_normal(24) for text in texts]
    return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def noisy(texts: Sequence[str], size: float) -> NDArray[np.float32]:
    rows = exact(texts) + size * exact([f"{text} noise" for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def judged(size: float, bounds: EncoderBounds | None = None) -> GateReport:
    subject = EncoderUnderTest("m", "0" * 64, "int8", lambda texts: noisy(texts, size), exact)
    return judge_encoder(subject, CALIBRATION, HELD_OUT, bounds)


def test_what_equals_its_reference_passes_with_every_figure_told_for_both_sets() -> None:
    found = judged(0.0)
    found.require()
    assert {(check.name, check.texts, check.samples) for check in found.checks} == {
        (name, texts, samples)
        for name in ("cosine_mean", "cosine_min", "top_10_agreement")
        for texts, samples in (("calibration", 80), ("held_out", 40))
    }
    assert all(check.value == pytest.approx(1.0, abs=1e-6) for check in found.checks)


def test_what_is_too_far_is_refused_with_the_figures_and_what_to_do() -> None:
    with pytest.raises(
        GateFailed, match=r"top_10_agreement on 40 held_out texts is 0\.\d+.*calibrate it anew"
    ) as failed:
        judged(0.3).require()
    assert isinstance(failed.value, FailedPrecondition)
    assert not failed.value.report.passed


def test_only_what_falls_short_is_named() -> None:
    with pytest.raises(GateFailed, match=r"kl_mean on 12 held_out texts is 0\.2, demanded is at most 0\.05") as failed:
        report(GOOD, BAD).require()
    assert "greedy" not in failed.value.message


def test_nothing_measured_is_not_a_pass() -> None:
    with pytest.raises(GateFailed, match="nothing was measured"):
        report().require()


@pytest.mark.parametrize("sense", ["at_least", "at_most"])
def test_what_is_not_a_number_never_passes_and_survives_json(sense: str) -> None:
    found = report(dataclasses.replace(GOOD, value=math.nan, sense=sense))
    assert not found.passed
    assert not GateReport.from_json(found.to_json()).passed


def test_a_report_comes_back_from_json() -> None:
    found = report(GOOD, BAD)
    assert GateReport.from_json(found.to_json()) == found


def test_the_verdict_in_the_file_is_not_believed() -> None:
    text = report(BAD).to_json()
    assert not GateReport.from_json(text.replace('"passed": false', '"passed": true')).passed


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "checks": [{}]}'])
def test_other_texts_are_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own error is one too
        GateReport.from_json(text)


def test_agreement_is_the_share_of_neighbours_kept() -> None:
    first = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], np.float32)
    assert agreement(first, first, 1).tolist() == [1, 1, 1, 1]
    # Rows 1 and 3 change places, so nobody's nearest is who it was.
    assert agreement(first, first[[0, 3, 2, 1]], 1).tolist() == [0, 0, 0, 0]
    assert agreement(first, first[[0, 3, 2, 1]], 3).tolist() == [1, 1, 1, 1]


def test_progress_rises_to_one() -> None:
    told: list[float] = []
    subject = EncoderUnderTest("m", "0" * 64, "int8", exact, exact)
    judge_encoder(subject, CALIBRATION, HELD_OUT, progress=lambda _, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 3


def test_too_few_texts_are_refused() -> None:
    subject = EncoderUnderTest("m", "0" * 64, "int8", exact, exact)
    with pytest.raises(InvalidArgument, match="more than k = 10"):
        judge_encoder(subject, CALIBRATION[:5], HELD_OUT[:5])


def test_the_hash_changes_with_a_text_its_order_and_its_set() -> None:
    assert len({hash_of(["a", "b"], []), hash_of(["b", "a"], []), hash_of(["a"], ["b"]), hash_of(["ab"], [])}) == 4

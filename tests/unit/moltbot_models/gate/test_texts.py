"""Models are judged on texts of both kinds: many, distinct, of mixed length, or the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moltbot_mesh.errors import InvalidArgument
from moltbot_models.gate.texts import read_texts, shipped_texts

if TYPE_CHECKING:
    from pathlib import Path


def test_the_shipped_texts_are_many_distinct_and_of_mixed_length() -> None:
    texts = shipped_texts()
    calibration, held_out = texts.calibration, texts.held_out
    assert len(calibration) > 100
    assert len(held_out) > 50
    assert len({*calibration, *held_out}) == len(calibration) + len(held_out)
    lengths = [len(text.split()) for text in (*calibration, *held_out)]
    assert min(lengths) < 4
    assert max(lengths) > 25


def test_texts_of_ones_own_are_split_and_too_few_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_text("\n\n".join(f"text {n}" for n in range(40)))
    found = read_texts(file)
    assert (len(found.calibration), len(found.held_out)) == (26, 14)
    assert not {*found.calibration} & {*found.held_out}
    file.write_text("one\ntwo")
    with pytest.raises(InvalidArgument, match="at least 36"):
        read_texts(file)
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_texts(tmp_path / "none")

"""What an encoder keeps in memory: no page of its weights' file, few shapes, and rows that are read when asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moltbot_models.encoder import Encoder, EncoderConfig, EncoderError
from moltbot_models.encoder.checkpoint import EncoderCheckpoint, widened
from moltbot_testkit.random_encoder import HIDDEN, WORDS, encoder_tensors, write_encoder
from moltbot_testkit.random_model import write_safetensors

WORD_TABLE = "embeddings.word_embeddings.weight"


def resident_kib(file: Path) -> int:
    """Of a mapped file in this process."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Rss:") and inside:
            total += int(line.split()[1])
        elif "-" in line.split(" ", 1)[0]:
            inside = line.endswith(str(file))
    return total


@pytest.mark.parametrize("precision", ["bf16", "f32"])
def test_no_page_of_the_weights_file_stays_in_memory(tmp_path: Path, precision: str) -> None:
    write_encoder(tmp_path)
    file = tmp_path / "model.safetensors"
    encoder = Encoder.load(tmp_path, EncoderConfig(threads=1, precision=precision))
    assert resident_kib(file) == 0
    encoder.embed([f"w{n} w5 w6" for n in range(3, WORDS)])
    encoder.embed(["w7"])
    assert resident_kib(file) == 0
    checkpoint = EncoderCheckpoint(file)
    checkpoint.tensor(WORD_TABLE, WORDS, HIDDEN)  # the measure would have seen it
    assert resident_kib(file) > 0
    checkpoint.rest()
    assert resident_kib(file) == 0


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.uint16])
def test_rows_are_those_of_the_whole_table(tmp_path: Path, kind: type) -> None:
    table = (encoder_tensors()[WORD_TABLE] * 100).astype(kind)  # uint16 is stored as BF16, any bits do
    write_safetensors(tmp_path / "model.safetensors", {"first": np.ones(3, np.float32), WORD_TABLE: table})
    rows = EncoderCheckpoint(tmp_path / "model.safetensors").rows(WORD_TABLE, WORDS, HIDDEN)
    numbers = np.array([[0, 7, 7], [WORDS - 1, 3, 0]])
    np.testing.assert_array_equal(rows(numbers), widened(table)[numbers])
    assert rows(np.zeros((0, 4), np.int64)).shape == (0, 4, HIDDEN)
    for wrong in (-1, WORDS):
        with pytest.raises(IndexError, match=f"{WORDS} rows"):
            rows(np.array([1, wrong]))


def test_a_file_that_is_cut_while_in_use_is_named(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    file = tmp_path / "model.safetensors"
    rows = EncoderCheckpoint(file).rows(WORD_TABLE, WORDS, HIDDEN)
    with file.open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(EncoderError, match="cut short"):
        rows(np.array([WORDS - 1]))

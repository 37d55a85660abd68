"""Rows are laid one behind another: what a run computes is their tokens, and no text sees another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from moltbot_models.encoder import Classifier, Encoder, EncoderConfig
from moltbot_models.encoder.runs import RUN_TOKENS, STEP_TOKENS, bucket_of, cut, packed, row_class
from moltbot_testkit.random_encoder import write_encoder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tokenizers import Encoding

WORDS = Tokenizer(models.WordLevel({f"w{n}": n for n in range(50)}, unk_token="w0"))
WORDS.pre_tokenizer = pre_tokenizers.Whitespace()


def rows_of(*counts: int) -> list[Encoding]:
    return WORDS.encode_batch([" ".join(f"w{1 + (n + count) % 49}" for n in range(count)) for count in counts])


def cut_of(lengths: Sequence[int], most: int = 16, hidden: int = 384) -> list[int]:
    return cut(lengths, most=most, bucket=16, longest=512, hidden=hidden)


def test_every_token_stands_at_its_place_and_points_back() -> None:
    rows = rows_of(3, 1, 17)
    ids, inputs = packed(rows, most=16, bucket=16, step=8, longest=64, kinds=True)
    token_at, mask, place_of = inputs["token_at"], inputs["attention_mask"], inputs["place_of"]
    assert ids.shape == inputs["positions"].shape == inputs["token_type_ids"].shape == place_of.shape == (24,)
    assert token_at.shape == mask.shape == (4, 32)
    for number, row in enumerate(rows):
        assert ids[token_at[number, : len(row.ids)]].tolist() == row.ids
        assert inputs["positions"][token_at[number, : len(row.ids)]].tolist() == list(range(len(row.ids)))
        assert mask[number].tolist() == [1] * len(row.ids) + [0] * (32 - len(row.ids))
    assert token_at.reshape(-1)[place_of[:21]].tolist() == list(range(21))
    assert mask[3].sum() == 1
    assert "token_type_ids" not in packed(rows, most=16, bucket=16, step=8, longest=64, kinds=False)[1]


def test_a_row_is_no_longer_than_the_model_bears() -> None:
    _, inputs = packed(rows_of(40), most=16, bucket=16, step=8, longest=40, kinds=False)
    assert inputs["token_at"].shape == (1, 40)
    assert inputs["positions"].max() == 39


def test_bf16_is_computed_in_tiles_of_16() -> None:
    assert packed(rows_of(9), most=16, bucket=16, step=STEP_TOKENS["bf16"], longest=64, kinds=False)[0].size == 16
    assert packed(rows_of(3), most=16, bucket=16, step=STEP_TOKENS["bf16"], longest=64, kinds=False)[0].size == 16


@pytest.mark.parametrize(("precision", "computed"), [("f32", 8), ("bf16", 16)])
def test_a_short_text_is_filled_up_as_its_arithmetic_wants_it(tmp_path: Path, precision: str, computed: int) -> None:
    write_encoder(tmp_path)
    encoder = Encoder.load(tmp_path, EncoderConfig(threads=1, precision=precision))
    encoder.embed(["w3 w4 w5"])
    assert {tokens for tokens, *_ in encoder.runtime._shapes} == {computed}


@pytest.mark.parametrize(
    ("tokens", "computed"), [(1, 8), (9, 16), (121, 128), (129, 144), (256, 256), (257, 320), (400, 448)]
)
def test_few_sizes_of_runs_are_told_apart_and_small_ones_most_finely(tokens: int, computed: int) -> None:
    ids, _ = packed(rows_of(tokens), most=16, bucket=16, step=8, longest=512, kinds=False)
    assert ids.size == computed


@pytest.mark.parametrize("bucket", [1, 8, 16])
def test_runs_have_few_sizes_whatever_the_bucket(bucket: int) -> None:
    sizes = {packed(rows_of(n), most=1, bucket=bucket, step=8, longest=512, kinds=False)[0].size for n in range(1, 513)}
    assert len(sizes) == 28


def test_lengths_become_few_and_lose_little() -> None:
    lengths = range(1, 513)
    found = [bucket_of(tokens, 16) for tokens in lengths]
    assert sorted(set(found)) == [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512]
    assert all(bucket >= tokens for bucket, tokens in zip(found, lengths, strict=True))
    assert max(bucket / tokens for bucket, tokens in zip(found, lengths, strict=True) if tokens > 128) < 1.25
    assert bucket_of(0, 16) == 16


@pytest.mark.parametrize(("shortest", "longest", "most"), [(1, 512, 1), (1, 512, 5), (1, 512, 16), (2, 30, 64)])
def test_runs_keep_to_their_rows_and_tokens_and_leave_none_out(shortest: int, longest: int, most: int) -> None:
    draw = np.random.default_rng(0)
    for _ in range(30):
        lengths = sorted(draw.integers(shortest, longest, 70).tolist())
        begin = 0
        for end in cut_of(lengths, most, hidden=4096):
            assert 1 <= end - begin <= most
            assert end - begin == 1 or sum(lengths[begin:end]) <= RUN_TOKENS
            square = row_class(end - begin, most) * bucket_of(lengths[end - 1], 16)
            assert end - begin == 1 or square <= 2 * RUN_TOKENS
            begin = end
        assert begin == 70


def test_rows_of_a_run_have_few_counts() -> None:
    assert [row_class(rows, 12) for rows in range(1, 13)] == [1, 2, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12]


def test_what_the_attention_costs_counts_the_more_the_narrower_the_model() -> None:
    lengths = [3] * 7 + [60]
    assert cut_of(lengths, hidden=4096) == [8]
    assert cut_of(lengths, hidden=64) == [7, 8]


def test_rows_are_no_wider_than_the_model_bears() -> None:
    assert cut([5] * 16, most=16, bucket=512, longest=32, hidden=384) == [16]


def test_rows_share_a_run_unless_the_attention_would_see_mostly_padding() -> None:
    assert cut_of([]) == []
    assert cut_of([16] * 8) == [8]
    assert cut_of([16] * 16) == [16]
    assert cut_of([17, 32, 40, 48]) == [4]
    assert cut_of([16] * 7 + [250]) == [7, 8]


def test_a_run_computes_its_tokens_and_not_the_longest_row_for_all() -> None:
    lengths = sorted(np.random.default_rng(1).integers(8, 120, 64).tolist())
    ends = cut_of(lengths)
    computed = 0
    for begin, end in zip([0, *ends], ends, strict=False):
        ids, _ = packed(rows_of(*lengths[begin:end]), most=16, bucket=16, step=8, longest=512, kinds=False)
        computed += ids.size
    assert computed < 1.05 * sum(lengths)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_no_text_sees_another_and_a_batch_gives_what_each_alone_gives(tmp_path: Path, family: str) -> None:
    write_encoder(tmp_path, family)
    encoder = Encoder.load(tmp_path, EncoderConfig(threads=1, precision="f32"))
    texts = [" ".join(f"w{3 + (5 * n + count) % 40}" for n in range(count)) for count in (1, 30, 2, 9, 9, 17, 1, 3, 40)]
    together, tokens = encoder.embed(texts)
    alone = np.concatenate([encoder.embed([text])[0] for text in texts])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    assert tokens == sum(encoder.embed([text])[1] for text in texts)
    # What stands beside a text changes nothing of it.
    others, _ = encoder.embed([*texts[:4], "w8 w9 w10 w11", *texts[5:]])
    np.testing.assert_allclose(np.delete(others, 4, 0), np.delete(together, 4, 0), atol=2e-6)
    assert np.abs(others[4] - together[4]).max() > 1e-3


def test_what_is_no_number_stays_with_its_own_text(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    encoder = Encoder.load(tmp_path, EncoderConfig(threads=1, precision="f32"))
    texts = ["w9 w9", "w3 w4 w5", " ".join(f"w{n}" for n in range(10, 30)), "w6 w7"]
    expected, _ = encoder.embed(texts)
    (special,) = set(encoder.rows(["w9"])[0].ids) - set(encoder.rows(["w8"])[0].ids)
    words = encoder.runtime._words
    encoder.runtime._words = lambda ids: np.where(ids[:, None] == special, np.float32("nan"), words(ids))
    found, _ = encoder.embed(texts)
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1:], expected[1:])


def test_pairs_of_a_reranker_are_scored_together_as_alone(tmp_path: Path) -> None:
    write_encoder(tmp_path, "bert", 1)
    classifier = Classifier.load(tmp_path, EncoderConfig(threads=1, precision="f32"))
    documents = [" ".join(f"w{3 + (3 * n + count) % 40}" for n in range(count)) for count in (1, 12, 4, 30, 30)]
    together, _ = classifier.rerank("w5 w6", documents)
    alone = [float(classifier.rerank("w5 w6", [document])[0][0]) for document in documents]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_row_without_tokens_is_zeros_and_disturbs_no_other(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    encoder = Encoder.load(tmp_path, EncoderConfig(threads=1, precision="f32"))
    rows = [*rows_of(5), *WORDS.encode_batch([""]), *rows_of(7)]
    found = encoder.runtime.run(rows)
    assert not found[1].any()
    np.testing.assert_allclose(found[[0, 2]], encoder.runtime.run([rows[0], rows[2]]), atol=2e-6)

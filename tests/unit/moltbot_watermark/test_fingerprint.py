from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moltbot_watermark.fingerprint import GRAM, WINDOW, fingerprint
from moltbot_watermark.stream_embedder import embed
from moltbot_watermark.unicode_mark import frame_text

KEY = bytes(range(32))


def letters(seed: int, count: int) -> str:
    chance = random.Random(seed)
    return "".join(chance.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(count))


@pytest.mark.parametrize(
    "other",
    [
        "the CAFE  was\nopen",
        "The ｃａｆｅ was open",  # noqa: RUF001
        "The\u200b cafe\u00ad was open",
        embed("The cafe was open", frame_text(KEY, 1, 1)),
    ],
)
def test_spaces_case_forms_and_marks_do_not_change_it(other: str) -> None:
    assert fingerprint(other, KEY) == fingerprint("The cafe was open", KEY)


def test_another_word_changes_it() -> None:
    assert fingerprint("The cafe was open", KEY).exact != fingerprint("The cafe was shut", KEY).exact


def test_another_key_shares_nothing() -> None:
    text = letters(1, 500)
    one, other = fingerprint(text, KEY), fingerprint(text, bytes(32))
    assert one.exact != other.exact
    assert not one.grams & other.grams


@given(st.integers(0, 10_000), st.text(max_size=200), st.text(max_size=200), st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_texts_that_share_enough_in_a_row_share_a_gram(seed: int, before: str, after: str, other: str) -> None:
    shared = letters(seed, WINDOW + GRAM - 1)
    one = fingerprint(f"{before} {shared} {after}", KEY)
    two = fingerprint(f"{other} {shared}", KEY)
    assert one.grams & two.grams


def test_texts_that_share_nothing_share_no_gram() -> None:
    assert not fingerprint(letters(1, 5000), KEY).grams & fingerprint(letters(2, 5000), KEY).grams


def test_about_one_gram_in_half_a_window_is_kept() -> None:
    assert 300 < len(fingerprint(letters(3, 10_000), KEY).grams) < 550


@given(st.text(alphabet=st.characters()))
def test_any_text_has_one(text: str) -> None:
    assert fingerprint(text, KEY) == fingerprint(text, KEY)

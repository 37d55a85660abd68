"""Texts written to cost: what one caller sends must not hold up the process."""

from __future__ import annotations

import time
import unicodedata

import pytest

from moltbot_watermark.fingerprint import fingerprint, normalised

KEY = bytes(32)


@pytest.mark.parametrize(
    "marks",
    [
        "\N{COMBINING ACUTE ACCENT}\N{COMBINING DOT BELOW}",
        "\N{TIBETAN VOWEL SIGN II}",  # of class 0, but made of two marks that are not
        "\N{HALFWIDTH KATAKANA VOICED SOUND MARK}\N{COMBINING LONG SOLIDUS OVERLAY}",
        "\N{COMBINING ACUTE ACCENT}\N{ZERO WIDTH JOINER}\N{COMBINING DOT BELOW}",
    ],
)
def test_a_million_marks_on_one_letter_take_no_time(marks):
    started_s = time.perf_counter()
    fingerprint("a" + marks * 500_000, KEY)
    assert time.perf_counter() - started_s < 5.0


def test_as_many_marks_as_a_language_uses_are_compared():
    stacked = "a" + "\N{COMBINING ACUTE ACCENT}" * 30
    assert normalised(stacked) == unicodedata.normalize("NFKC", stacked)
    assert normalised(stacked) != normalised(stacked[:-1])
    assert normalised("Ti\u1ebfng Vi\u1ec7t") == normalised(unicodedata.normalize("NFD", "Ti\u1ebfng Vi\u1ec7t"))

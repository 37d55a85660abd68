"""Texts written to cost: what one caller sends must not hold up the process."""

from __future__ import annotations

import unicodedata

import pytest

from moltbot_watermark.fingerprint import MAX_CHARACTERS, _beginning, _cleaned, _pieces, fingerprint, normalised

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
def test_of_a_million_marks_on_one_letter_the_first_are_compared(marks):
    first = "a" + (marks.replace("\N{ZERO WIDTH JOINER}", "") * 30)[:30]
    assert normalised("a" + marks * 500_000) == unicodedata.normalize("NFKC", first).casefold()
    assert fingerprint("a" + marks * 500_000, KEY).characters <= 1 + 2 * 30


def test_a_text_that_grows_eighteenfold_is_compared_as_far_as_the_longest_that_does_not():
    ligature = "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}"
    assert len(normalised(ligature * 10)) == 150
    assert len(normalised(ligature * 1_300_000)) == MAX_CHARACTERS == len(normalised("\u4e2d" * MAX_CHARACTERS))


@pytest.mark.parametrize(
    "text",
    [
        "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}",
        "\u4e2d",
        "\N{HANGUL JUNGSEONG A}",
        "\N{COMBINING ACUTE ACCENT}",
        "\N{ZERO WIDTH JOINER}",
        "e\N{COMBINING ACUTE ACCENT}",
    ],
)
def test_no_step_over_a_long_text_is_long_so_that_other_threads_run(text):
    blocks = list(_cleaned(text * 100_000))
    pieces = list(_pieces("".join(blocks)))
    assert "".join(pieces) == "".join(blocks)
    assert max(map(len, (*blocks, *pieces))) <= 4 * 4096


@pytest.mark.parametrize("before", range(4060, 4100))
def test_a_run_of_marks_is_cut_alike_wherever_it_begins(before):
    text = "\u4e2d" * before + "e" + "\N{COMBINING ACUTE ACCENT}\N{COMBINING DOT BELOW}" * 40 + "\u4e2d"
    kept = "e" + "\N{COMBINING ACUTE ACCENT}\N{COMBINING DOT BELOW}" * 15 + "\u4e2d"
    assert normalised(text) == "\u4e2d" * before + unicodedata.normalize("NFKC", kept)


@pytest.mark.parametrize(
    "joined",
    [
        "e\N{COMBINING ACUTE ACCENT}",
        "\N{HANGUL CHOSEONG KIYEOK}\N{HANGUL JUNGSEONG A}\N{HANGUL JONGSEONG KIYEOK}",
        "\N{HALFWIDTH KATAKANA LETTER KA}\N{HALFWIDTH KATAKANA VOICED SOUND MARK}",
        "\N{BENGALI VOWEL SIGN E}\N{BENGALI VOWEL SIGN AA}",
        "\N{TIBETAN VOWEL SIGN II}\N{COMBINING DOT BELOW}",
    ],
)
@pytest.mark.parametrize("before", range(4090, 4100))
def test_what_is_written_as_one_is_not_torn_where_a_long_text_is_taken_apart(joined, before):
    text = "\u4e2d" * before + joined + "\u4e2d"
    assert normalised(text) == unicodedata.normalize("NFKC", text).casefold()


def test_wherever_a_text_is_taken_apart_nothing_joins_what_was_before():
    letters = ("a", "\u1100", "\uac00", "\u09c7", "\u0b47", "\u30ab", "\u03b1", "\u0bc6", "\U00011131")
    for code in range(0x80, 0x30000):
        c = chr(code)
        if 0xD800 <= code < 0xE000 or not _beginning().match(c):
            continue
        alone = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", c).casefold())
        for letter in letters:
            assert unicodedata.normalize("NFKC", letter + unicodedata.normalize("NFKC", c).casefold()) == letter + alone


def test_as_many_marks_as_a_language_uses_are_compared():
    stacked = "a" + "\N{COMBINING ACUTE ACCENT}" * 30
    assert normalised(stacked) == unicodedata.normalize("NFKC", stacked)
    assert normalised(stacked) != normalised(stacked[:-1])
    assert normalised("Ti\u1ebfng Vi\u1ec7t") == normalised(unicodedata.normalize("NFD", "Ti\u1ebfng Vi\u1ec7t"))

from __future__ import annotations

import random
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moltbot_watermark import unicode_mark
from moltbot_watermark.output_kind import OutputKind
from moltbot_watermark.stream_embedder import embed
from moltbot_watermark.unicode_mark import FRAME_LENGTH, Frame, authentic, frame_text, readings, runs, strip

KEY = bytes(range(32))
TEXT = "The harbour was quiet that morning, and the boats lay still.\n\nNobody had seen the storm coming from the west."
MARK = 0xDEADBEEF


def found(text: str, key: bytes = KEY) -> set[int]:
    """Mark ids of all frames that verify."""
    return {
        frame.mark_id
        for run in runs(text)
        for frame in readings(run.data)
        if frame is not None and authentic(frame, key)
    }


@pytest.fixture
def marked() -> str:
    return embed(TEXT, frame_text(KEY, 3, MARK))


@given(st.binary(min_size=32, max_size=32), st.integers(1, 0xFFFF), st.integers(1, 0xFFFFFFFF))
def test_a_frame_says_what_was_put_in(key: bytes, epoch: int, mark_id: int) -> None:
    text = frame_text(key, epoch, mark_id)
    (run,) = runs(text)
    first = next(readings(run.data))
    assert isinstance(first, Frame)
    assert (first.epoch, first.mark_id) == (epoch, mark_id)
    assert authentic(first, key)


@pytest.mark.parametrize("kind", OutputKind)
def test_a_frame_says_what_it_marks_and_cannot_be_turned_into_another(kind: OutputKind) -> None:
    (run,) = runs(frame_text(KEY, 1, 7, kind))
    frame = next(readings(run.data))
    assert frame is not None
    assert (frame.kind, authentic(frame, KEY)) == (kind, True)
    for other in OutputKind:
        turned = bytes((unicode_mark.VERSIONS[other],)) + run.data[1:]
        read = [frame.kind for frame in readings(turned) if frame is not None and authentic(frame, KEY)]
        assert set(read) == {kind}  # the wrong byte is mended


def test_a_damaged_mark_of_a_thought_is_mended_as_that() -> None:
    frame = list(frame_text(KEY, 3, MARK, OutputKind.REASONING))
    frame[0], frame[5], frame[9], frame[20] = "\U000e0101\U000e0102\U000e0103\U000e0104"
    (run,) = runs("".join(frame))
    read = [frame for frame in readings(run.data) if frame is not None and authentic(frame, KEY)]
    assert [(frame.kind, frame.mark_id) for frame in read] == [(OutputKind.REASONING, MARK)]


@given(st.binary(min_size=32, max_size=32))
def test_another_key_does_not_verify_a_frame(key: bytes) -> None:
    (run,) = runs(frame_text(KEY, 1, 1))
    verified = any(frame is not None and authentic(frame, key) for frame in readings(run.data))
    assert verified == (key == KEY)


@pytest.mark.parametrize(("epoch", "mark_id"), [(0, 1), (0x10000, 1), (1, 0), (1, 1 << 32)])
def test_what_does_not_fit_a_frame_is_refused(epoch: int, mark_id: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        frame_text(KEY, epoch, mark_id)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_the_mark_survives_normalisation(marked: str, form: str) -> None:
    assert found(unicodedata.normalize(form, marked)) == {MARK}


def test_the_mark_survives_collapse_of_white_space(marked: str) -> None:
    assert found(" ".join(marked.split())) == {MARK}


def test_the_mark_survives_removal_of_format_characters(marked: str) -> None:
    assert found("".join(c for c in marked if unicodedata.category(c) != "Cf")) == {MARK}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030"])
def test_the_mark_survives_an_encoding_of_all_of_unicode(marked: str, encoding: str) -> None:
    assert marked.encode(encoding).decode(encoding) == marked


def test_the_mark_survives_in_one_paragraph(marked: str) -> None:
    assert found(marked.split("\n\n")[1]) == {MARK}


@pytest.mark.parametrize("encoding", ["gbk", "big5", "latin-1", "ascii"])
def test_a_small_encoding_kills_the_mark(marked: str, encoding: str) -> None:
    assert found(marked.encode(encoding, "ignore").decode(encoding)) == set()


def test_removal_of_non_spacing_marks_kills_the_mark(marked: str) -> None:
    assert found("".join(c for c in marked if unicodedata.category(c) != "Mn")) == set()


@given(st.sets(st.integers(1, FRAME_LENGTH - 1), min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_four_wrong_selectors_are_mended(places: set[int], chance: random.Random) -> None:
    damaged = list(frame_text(KEY, 3, MARK))
    for place in places:
        damaged[place] = chr(0xE0100 + chance.randrange(240))
    assert found("".join(damaged)) == {MARK}


@given(st.sets(st.integers(0, FRAME_LENGTH - 1), min_size=1, max_size=2))
@settings(deadline=None)
def test_two_lost_selectors_are_mended(places: set[int]) -> None:
    frame = frame_text(KEY, 3, MARK)
    assert MARK in found("".join(c for place, c in enumerate(frame) if place not in places))


@pytest.mark.parametrize("lost", range(1, 9))
def test_a_frame_cut_short_is_mended(lost: int) -> None:
    frame = frame_text(KEY, 3, MARK)
    assert found(frame[:-lost]) == {MARK}
    assert found(frame[lost:]) == {MARK}


def test_nine_lost_selectors_kill_the_mark() -> None:
    assert found(frame_text(KEY, 3, MARK)[:-9]) == set()


def test_twenty_thousand_random_runs_verify_nothing() -> None:
    chance = random.Random(7)
    verified = 0
    for _ in range(20_000):
        data = bytes(
            (unicode_mark.VERSIONS[OutputKind.ANSWER], *(chance.randrange(256) for _ in range(FRAME_LENGTH - 1)))
        )
        frame = next(readings(data))
        verified += frame is not None and authentic(frame, KEY)
    assert verified == 0


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_text_without_a_mark_holds_none(text: str) -> None:
    assert found(text) == set()


def test_stripping_removes_frames_and_leaves_other_selectors() -> None:
    text = "A heart \u2764\ufe0f and a variant 葛\U000e0100 stand in this sentence."
    for kind in OutputKind:
        marked = embed(text, frame_text(KEY, 1, 1, kind))
        assert marked != text
        assert strip(marked) == text


def test_stripping_leaves_a_run_that_is_no_frame() -> None:
    run = "\U000e01e1" + "\U000e0150" * (FRAME_LENGTH - 1)
    assert strip(f"word{run} end") == f"word{run} end"


def test_a_frame_is_invisible_to_search_by_category() -> None:
    assert re.fullmatch("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{21}", frame_text(KEY, 1, 1))

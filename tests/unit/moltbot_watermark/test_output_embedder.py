"""An answer and what the model thought before it are marked as two texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltbot_watermark.output_embedder import OutputEmbedder
from moltbot_watermark.output_kind import OutputKind
from moltbot_watermark.stream_embedder import embed
from moltbot_watermark.unicode_mark import frame_text, strip

KEY = bytes(32)
ANSWERS = frame_text(KEY, 1, 7)
THOUGHTS = frame_text(KEY, 1, 7, OutputKind.REASONING)
THINKS = "The user wants to know the way.\n\nI should name the bridge first, and then the mill behind it"
SAYS = "Cross the bridge by the church.\n\nThe mill stands behind it."


@pytest.fixture
def embedder() -> OutputEmbedder:
    return OutputEmbedder(KEY, 1, 7)


def test_each_text_is_marked_as_if_it_were_alone(embedder: OutputEmbedder) -> None:
    thought = embedder.think(THINKS, ends=True)
    said = embedder.answer(SAYS, ends=True)
    assert thought == embed(THINKS, THOUGHTS)
    assert said == embed(SAYS, ANSWERS)
    assert (thought.count(THOUGHTS), said.count(ANSWERS)) == (2, 2)


@given(st.lists(st.integers(0, 4), max_size=40))
def test_the_borders_of_pieces_do_not_show_and_no_thought_is_held_back(sizes: list[int]) -> None:
    embedder = OutputEmbedder(KEY, 1, 7)
    thought: list[str] = []
    said: list[str] = []
    at = 0
    for size in sizes:
        piece = THINKS[at : at + size]
        thought.append(embedder.think(piece, ends=False))
        assert strip(thought[-1]) == piece
        said.append(embedder.answer(SAYS[at : at + size], ends=False))
        at += size
    thought.append(embedder.think(THINKS[at:], ends=True))
    said.append(embedder.answer(SAYS[at:], ends=True))
    assert "".join(thought) == embed(THINKS, THOUGHTS)
    assert "".join(said) == embed(SAYS, ANSWERS)


def test_a_code_fence_left_open_in_a_thought_silences_neither_the_answer_nor_a_later_thought(
    embedder: OutputEmbedder,
) -> None:
    first = embedder.think("```\nlet me try this in code first\n\nstill in code", ends=True)
    said = embedder.answer(SAYS, ends=False)
    later = embedder.think("Now some more words of prose.", ends=True)
    assert THOUGHTS not in first
    assert ANSWERS in said
    assert THOUGHTS in later


def test_a_model_that_thinks_nothing_has_no_thoughts_marked(embedder: OutputEmbedder) -> None:
    assert embedder.think("", ends=True) == ""
    assert embedder.answer(SAYS, ends=True) == embed(SAYS, ANSWERS)

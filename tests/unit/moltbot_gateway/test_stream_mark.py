"""Answers and thoughts are marked apart; a watermark service that hangs ends the answer, and holds it not for ever."""

from __future__ import annotations

import asyncio

import pytest
from moltbot.watermark.v1 import watermark_pb2

from moltbot_gateway import stream_mark
from moltbot_gateway.stream_mark import StreamMark
from moltbot_mesh.errors import Unavailable
from moltbot_models.generation import Delta, ToolCallDelta
from moltbot_watermark.output_embedder import OutputEmbedder
from moltbot_watermark.output_kind import OutputKind
from moltbot_watermark.stream_embedder import embed
from moltbot_watermark.unicode_mark import frame_text, strip

KEY = bytes(32)
FRAME, THOUGHT_FRAME = frame_text(KEY, 1, 7), frame_text(KEY, 1, 7, OutputKind.REASONING)
THINKS = "Let me think about the way to the mill"
WORD = "Considering"
"""A thought whose frame is due only when it ends."""
SAYS = "Cross the bridge by the church."


class Marking:
    """A stub whose stream marks as the service does, and refuses what the service refuses."""

    def __init__(self) -> None:
        self.embedder = OutputEmbedder(KEY, 1, 7)
        self.requests: list[watermark_pb2.EmbedStreamRequest] = []

    def EmbedStream(self):  # noqa: N802
        return self

    async def write(self, request):
        assert max(len(request.text.encode()), len(request.reasoning.encode())) <= 1 << 20
        self.requests.append(request)

    async def read(self):
        request = self.requests[-1]
        ends = request.reasoning_ends or request.finish
        return watermark_pb2.EmbedStreamResponse(
            reasoning=self.embedder.think(request.reasoning, ends=ends),
            text=self.embedder.answer(request.text, ends=request.finish),
        )


class Watermark:
    """A stub whose stream answers, or hangs in one of its two waits."""

    def __init__(self, hangs: str = "") -> None:
        self.hangs = hangs

    def EmbedStream(self):  # noqa: N802
        return self

    async def write(self, request):
        if self.hangs == "write":
            await asyncio.sleep(60)

    async def read(self):
        if self.hangs == "read":
            await asyncio.sleep(60)
        return watermark_pb2.EmbedStreamResponse(text="marked")

    def cancel(self):
        return True


@pytest.mark.parametrize("hangs", ["write", "read"])
async def test_a_stream_of_marks_that_hangs_is_given_up(monkeypatch, hangs):
    monkeypatch.setattr(stream_mark, "_TIMEOUT_S", 0.02)
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable, match="watermark service"):
            await StreamMark(Watermark(hangs), "acme", 1, 1).embed((Delta("text"),))


async def test_a_stream_of_marks_that_answers_is_used():
    (delta,) = await StreamMark(Watermark(), "acme", 1, 1).embed((Delta("te"), Delta("xt", finish_reason="stop")))
    assert (delta.text, delta.finish_reason) == ("marked", "stop")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * (1 << 18),
        "Some words of a paragraph.\n\n" * 80_000,
        "a" * ((1 << 18) - 14) + "\n\nA paragraph that begins here and ends there.\n\n" + "`code` and words " * 90_000,
        "```\n" + "let x = 1;\n" * 60_000 + "```\n\nA paragraph after all the code.",
        "\N{GRINNING FACE}" * 600_000 + "\n\nA paragraph after all the faces.",
        "\u4e2d\u6587\u3002" * 500_000,
    ],
)
async def test_an_answer_of_any_length_is_marked_as_if_it_were_one_piece(text):
    watermark = Marking()
    mark = StreamMark(watermark, "acme", 7, 1)
    (delta,) = await mark.embed((Delta(text, finish_reason="stop"),))
    assert delta.text == embed(text, FRAME)
    assert [request.finish for request in watermark.requests][-1:] == [True]
    assert sum(request.finish for request in watermark.requests) == 1
    assert [request.mark_id for request in watermark.requests] == [7] + [0] * (len(watermark.requests) - 1)


@pytest.fixture
def watermark():
    return Marking()


async def marked(watermark, *pieces):
    mark = StreamMark(watermark, "acme", 7, 1)
    return [delta for piece in pieces for delta in await mark.embed(piece)]


async def test_thoughts_and_answer_of_a_stream_carry_marks_of_their_own(watermark):
    thoughts = [(Delta(reasoning=c),) for c in THINKS]
    answer = [(Delta(c),) for c in SAYS]
    found = await marked(watermark, *thoughts, *answer, (Delta(finish_reason="stop"),))
    assert "".join(d.reasoning for d in found) == embed(THINKS, THOUGHT_FRAME)
    assert "".join(d.text for d in found) == embed(SAYS, FRAME)
    assert len(watermark.requests) == len(THINKS) + len(SAYS) + 1, "one message a piece"


async def test_the_last_mark_of_thoughts_comes_before_the_answer(watermark):
    found = await marked(watermark, (Delta(reasoning=WORD),), (Delta("Cross"),), (Delta(" the bridge."),))
    assert [(d.reasoning, strip(d.text)) for d in found] == [
        (WORD, ""),
        (THOUGHT_FRAME, "Cross"),
        ("", " the bridge."),
    ]


async def test_the_last_mark_of_thoughts_comes_before_a_call(watermark):
    call = Delta("", (ToolCallDelta(0, "c0", "clock", "{}"),))
    found = await marked(watermark, (Delta(reasoning=WORD),), (call,), (Delta(finish_reason="tool_calls"),))
    assert [(d.reasoning, d.tool_calls, d.finish_reason) for d in found] == [
        (WORD, (), None),
        (THOUGHT_FRAME, call.tool_calls, None),
        ("", (), "tool_calls"),
    ]


async def test_pieces_that_came_together_stay_together(watermark):
    pieces = (Delta(reasoning=THINKS[:9]), Delta(reasoning=THINKS[9:]), Delta(SAYS), Delta(finish_reason="stop"))
    (found,) = await marked(watermark, pieces)
    assert (found.reasoning, found.text) == (embed(THINKS, THOUGHT_FRAME), embed(SAYS, FRAME))
    assert len(watermark.requests) == 1


async def test_what_a_model_thinks_after_it_has_spoken_is_a_new_text(watermark):
    steps = [(Delta(reasoning=THINKS),), (Delta("Wait."),), (Delta(reasoning=THINKS),), (Delta(SAYS),)]
    found = await marked(watermark, *steps, (Delta(finish_reason="stop"),))
    assert "".join(d.reasoning for d in found) == embed(THINKS, THOUGHT_FRAME) * 2


async def test_thoughts_cut_off_by_the_length_are_marked_to_their_end(watermark):
    found = await marked(watermark, (Delta(reasoning=WORD),), (Delta(finish_reason="length"),))
    assert [(d.reasoning, d.finish_reason) for d in found] == [(WORD, None), (THOUGHT_FRAME, "length")]


@pytest.mark.parametrize("text", ["", SAYS, SAYS * 9_000])
async def test_thoughts_of_any_length_are_marked_as_if_they_were_one_piece(watermark, text):
    thoughts = "Some words of a thought.\n\n" * 40_000
    (found,) = await marked(watermark, (Delta(text, reasoning=thoughts, finish_reason="stop"),))
    assert found.reasoning == embed(thoughts, THOUGHT_FRAME)
    assert found.text == embed(text, FRAME)


async def test_a_watermark_service_that_knows_no_thoughts_loses_none():
    (found,) = await StreamMark(Watermark(), "acme", 1, 1).embed((Delta("text", reasoning=THINKS),))
    assert (found.reasoning, found.text) == (THINKS, "marked")

"""A watermark service that hangs ends the answer; it does not hold it for ever."""

from __future__ import annotations

import asyncio

import pytest
from moltbot.watermark.v1 import watermark_pb2

from moltbot_gateway import peers
from moltbot_gateway.peers import StreamMark
from moltbot_mesh.errors import Unavailable
from moltbot_models.generation import Delta
from moltbot_watermark.stream_embedder import StreamEmbedder, embed

FRAME = "<frame>"


class Marking:
    """A stub whose stream marks as the service does, and refuses what the service refuses."""

    def __init__(self) -> None:
        self.embedder = StreamEmbedder(FRAME)
        self.requests: list[watermark_pb2.EmbedStreamRequest] = []

    def EmbedStream(self):  # noqa: N802
        return self

    async def write(self, request):
        assert len(request.text.encode()) <= 1 << 20
        self.requests.append(request)

    async def read(self):
        request = self.requests[-1]
        text = self.embedder.feed(request.text)
        return watermark_pb2.EmbedStreamResponse(text=text + (self.embedder.finish() if request.finish else ""))


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
    monkeypatch.setattr(peers, "_MARK_TIMEOUT_S", 0.02)
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

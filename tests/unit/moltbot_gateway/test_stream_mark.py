"""A watermark service that hangs ends the answer; it does not hold it for ever."""

from __future__ import annotations

import asyncio

import pytest
from moltbot.watermark.v1 import watermark_pb2

from moltbot_gateway import peers
from moltbot_gateway.peers import StreamMark
from moltbot_mesh.errors import Unavailable
from moltbot_models.generation import Delta


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

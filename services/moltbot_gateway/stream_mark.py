"""Marks one answer as it streams, and what the model thinks before it: two texts, each marked by itself, on one call.

The thoughts' frames are of a kind of their own and lie whole within them. Both texts of a piece go in one message, so
thoughts cost no call and no wait that an answer does not.
"""

from __future__ import annotations

import asyncio
from itertools import zip_longest
from typing import TYPE_CHECKING

from moltbot.watermark.v1 import watermark_pb2

from moltbot_mesh.errors import Unavailable
from moltbot_models.generation import Delta

if TYPE_CHECKING:
    from moltbot.watermark.v1 import watermark_pb2_grpc

_TIMEOUT_S = 5.0
"""For a piece of an answer: its stream has no deadline of its own."""
_CHARACTERS = 1 << 18
"""Of a text in a message: at most 1 MiB, which is what the service takes."""


class StreamMark:
    """Marks one answer.

    Args:
        watermark: Marks.
        tenant: Whose answer it is.
        mark_id: Reserved for it.
        epoch: Of the mark.
    """

    def __init__(
        self, watermark: watermark_pb2_grpc.WatermarkServiceAsyncStub, tenant: str, mark_id: int, epoch: int
    ) -> None:
        self._call = watermark.EmbedStream()
        self._opening = watermark_pb2.EmbedStreamRequest(tenant=tenant, mark_id=mark_id, epoch=epoch)
        self._thinking = False

    async def embed(self, deltas: tuple[Delta, ...]) -> tuple[Delta, ...]:
        """Mark the texts of some deltas; an answer's end may be held back until the next ones.

        Thoughts end where an answer or a call begins, so that their last paragraph's mark stands with them.
        """
        last = deltas[-1]
        finish = last.finish_reason is not None
        text = "".join(delta.text for delta in deltas)
        reasoning = "".join(delta.reasoning for delta in deltas)
        self._thinking = self._thinking or bool(reasoning)
        ends = self._thinking and (finish or bool(text) or any(delta.tool_calls for delta in deltas))
        if not (text or reasoning or ends or finish):
            return deltas
        self._thinking = self._thinking and not ends
        text, reasoning = await self._marked(text, reasoning, ends=ends, finish=finish)
        joined = Delta(
            text,
            tuple(call for delta in deltas for call in delta.tool_calls),
            tuple(entry for delta in deltas for entry in delta.logprobs),
            last.finish_reason,
            last.usage,
            reasoning,
        )
        return (joined,)

    async def _marked(self, text: str, reasoning: str, *, ends: bool, finish: bool) -> tuple[str, str]:
        """Both texts marked, in as many messages as they need."""
        said: list[str] = []
        thought: list[str] = []
        pieces = list(zip_longest(_pieces(text), _pieces(reasoning), fillvalue=""))
        for number, (more_text, more_reasoning) in enumerate(pieces, 1):
            whole = number == len(pieces)
            request = watermark_pb2.EmbedStreamRequest(
                text=more_text, reasoning=more_reasoning, reasoning_ends=ends and whole, finish=finish and whole
            )
            answer = await self._ask(request)
            said.append(answer.text)
            # Of thoughts nothing is held back: a service that gives none back is of an earlier release.
            thought.append(answer.reasoning or more_reasoning)
        return "".join(said), "".join(thought)

    async def _ask(self, request: watermark_pb2.EmbedStreamRequest) -> watermark_pb2.EmbedStreamResponse:
        self._opening.MergeFrom(request)
        request, self._opening = self._opening, watermark_pb2.EmbedStreamRequest()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._call.write(request)
                answer = await self._call.read()
        except TimeoutError:
            raise Unavailable(f"the watermark service did not mark a piece within {_TIMEOUT_S:g} s") from None
        if not isinstance(answer, watermark_pb2.EmbedStreamResponse):
            raise Unavailable("the watermark service ended the stream of marks early")
        return answer

    def close(self) -> None:
        """End the stream, whether the answer was complete or not."""
        self._call.cancel()


def _pieces(text: str) -> list[str]:
    return [text[begin : begin + _CHARACTERS] for begin in range(0, len(text) or 1, _CHARACTERS)]

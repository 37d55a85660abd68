"""Marks one model's output as it streams: the answer, and beside it what the model thinks.

They are texts of their own, each with its automaton and its kind of frame, so that a code fence left open in a thought
does not silence the answer, and no frame is begun in one and ended in the other.
"""

from __future__ import annotations

from moltbot_watermark.output_kind import OutputKind
from moltbot_watermark.stream_embedder import StreamEmbedder
from moltbot_watermark.unicode_mark import frame_text


class OutputEmbedder:
    """Marks one output.

    Args:
        key: Of the tenant and epoch, 32 bytes.
        epoch: Of the key.
        mark_id: Of the output.
    """

    def __init__(self, key: bytes, epoch: int, mark_id: int) -> None:
        self._mark = (key, epoch, mark_id)
        self._answer = StreamEmbedder(frame_text(*self._mark))
        self._thoughts: StreamEmbedder | None = None  # most models have none

    def answer(self, text: str, *, ends: bool) -> str:
        """Take more of the answer; returns it marked."""
        marked = self._answer.feed(text)
        return marked + self._answer.finish() if ends else marked

    def think(self, text: str, *, ends: bool) -> str:
        """Take more of what the model thinks; returns it marked.

        Args:
            text: May be empty.
            ends: Whether the model stops thinking here; what it thinks later is a new text.
        """
        if self._thoughts is None:
            if not text:
                return ""
            self._thoughts = StreamEmbedder(frame_text(*self._mark, OutputKind.REASONING))
        marked = self._thoughts.feed(text)
        if ends:
            marked += self._thoughts.finish()
            self._thoughts = None
        return marked

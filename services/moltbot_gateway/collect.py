"""A whole answer from its pieces."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_models.generation import Delta, TokenLogprob, ToolCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence


class CallPieces:
    """Tool calls from their pieces."""

    def __init__(self) -> None:
        self._calls: dict[int, list[str]] = {}

    def take(self, delta: Delta) -> None:
        """Add the pieces of one delta."""
        for piece in delta.tool_calls:
            call = self._calls.setdefault(piece.index, ["", "", ""])
            call[0] += piece.id
            call[1] += piece.name
            call[2] += piece.arguments

    def calls(self) -> tuple[ToolCall, ...]:
        """The calls so far, in order."""
        return tuple(ToolCall(*self._calls[index]) for index in sorted(self._calls))


@dataclass(frozen=True, slots=True)
class Collected:
    """A whole answer."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: str
    reasoning: str = ""

    @classmethod
    async def of(cls, answer: AsyncGenerator[tuple[Delta, ...]]) -> Collected:
        """Read an answer to its end.

        Raises:
            MoltbotError: What the answer raised.
        """
        pieces: list[Delta] = []
        async with contextlib.aclosing(answer):  # type: ignore[type-var]
            async for deltas in answer:
                pieces.extend(deltas)
        return cls._joined(pieces)

    @classmethod
    def _joined(cls, pieces: Sequence[Delta]) -> Collected:
        calls = CallPieces()
        text: list[str] = []
        logprobs: list[TokenLogprob] = []
        finish_reason = "stop"
        for delta in pieces:
            text.append(delta.text)
            logprobs.extend(delta.logprobs)
            calls.take(delta)
            finish_reason = delta.finish_reason or finish_reason
        reasoning = "".join(delta.reasoning for delta in pieces)
        return cls("".join(text), calls.calls(), tuple(logprobs), finish_reason, reasoning)

"""Puts a prompt together within a token budget: system messages, the newest turns that fit, the new messages.

A turn goes in whole or not at all, so a tool's result never stands without the call that asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_mesh.errors import FailedPrecondition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_context.turns import StoredMessage, Turn

_MESSAGE_OVERHEAD_TOKENS = 4
_INSTRUCTIONS = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt."""

    messages: tuple[StoredMessage, ...]
    turns_used: int
    turns_dropped: int
    token_estimate: int


def estimate_tokens(message: StoredMessage) -> int:
    """Tokens of a message that nobody has counted; on the high side for English.

    A quarter of its UTF-8 bytes, or each CJK character as one, and a few for its frame.
    """
    text = message.content + "".join(call.name + call.arguments for call in message.tool_calls)
    wide = 0 if text.isascii() else sum(1 for character in text if ord(character) >= 0x2E80)
    return wide + (len(text) - wide + 3) // 4 + _MESSAGE_OVERHEAD_TOKENS


def assemble(turns: Sequence[Turn], messages: Sequence[StoredMessage], budget_tokens: int) -> Prompt:
    """Put a prompt together.

    Args:
        turns: Of the session, oldest first.
        messages: The new ones; kept whole.
        budget_tokens: What the prompt may have.

    Raises:
        FailedPrecondition: The new messages alone exceed the budget.
    """
    used = sum(estimate_tokens(message) for message in messages)
    if used > budget_tokens:
        raise FailedPrecondition(
            f"the new messages have about {used} tokens, the budget is {budget_tokens}; send less, "
            "or raise gateway.prompt_budget_tokens",
            reason="CONTEXT_LENGTH_EXCEEDED",
        )
    kept: list[Turn] = []
    for turn in reversed(turns):
        cost = sum(estimate_tokens(message) for message in turn.messages)
        if used + cost > budget_tokens:
            break
        used += cost
        kept.append(turn)
    kept.reverse()
    # Instructions of the new request stand for those of earlier turns: a client sends them each time.
    new_instructions = any(message.role in _INSTRUCTIONS for message in messages)
    past = [
        message
        for turn in kept
        for message in turn.messages
        if not (new_instructions and message.role in _INSTRUCTIONS)
    ]
    first = [message for message in (*past, *messages) if message.role in _INSTRUCTIONS]
    rest = [message for message in (*past, *messages) if message.role not in _INSTRUCTIONS]
    unique = list(dict.fromkeys(first))
    return Prompt((*unique, *rest), len(kept), len(turns) - len(kept), used)

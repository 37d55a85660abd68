"""Keeps what people write from being read as the model's control tokens.

A chat template marks turns with tokens such as `<|im_start|>`, and a tokenizer finds them wherever they are spelt out:
a web page that a tool fetched could begin a turn of the system's. Here a spelling that comes in a message is cut in
two, and the halves are tokenised apart, so the model sees the characters and no token. Text without such a spelling is
tokenised as ever.

Source: OWASP Top 10 for LLM applications 2025, LLM01 (prompt injection); `parse_special` of llama.cpp is the same idea.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moltbot_models.generation import Message, ToolSpec

_CUT = "\ufdd0"
"""Where a spelling is cut. A noncharacter, which has no place in text that is exchanged (Unicode 15, 23.7)."""


class ControlTokens:
    """The spellings of one tokenizer's control tokens."""

    def __init__(self, spellings: Iterable[str]) -> None:
        """Take the spellings; those of one character cannot be cut and are left alone."""
        rests: dict[str, list[str]] = {}
        for text in sorted(set(spellings)):
            if len(text) > 1:
                rests.setdefault(text[0], []).append(re.escape(text[1:]))
        # One character and what must follow it: the rest is not taken, for another spelling may begin within it.
        begins = [f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items()]
        self._spelt = re.compile("|".join(begins)) if begins else None

    def message(self, message: Message) -> Message:
        """A message for the template, its spellings cut.

        The assistant's own words are left as they are: a model's control tokens never become text, and templates look
        for its tags in them.
        """
        if self._spelt is None or message.role == "assistant":
            return message
        parts = tuple(self._cut(part) if isinstance(part, str) else part for part in message.parts)
        return replace(message, content=self._cut(message.content), name=self._cut(message.name), parts=parts)

    def tool(self, tool: ToolSpec) -> ToolSpec:
        """A tool for the template, its spellings cut: what it says of itself may come from a server elsewhere."""
        if self._spelt is None:
            return tool
        named = replace(tool, name=self._cut(tool.name), description=self._cut(tool.description))
        return replace(named, parameters=self._cut(tool.parameters))

    def _cut(self, text: str) -> str:
        assert self._spelt is not None
        return self._spelt.sub(rf"\g<0>{_CUT}", text.replace(_CUT, ""))


def pieces(prompt: str) -> list[str]:
    """What of a rendered prompt is tokenised apart; nearly always all of it in one piece."""
    return prompt.split(_CUT)

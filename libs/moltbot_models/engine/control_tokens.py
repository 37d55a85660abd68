"""Keeps what people write from being read as the model's control tokens.

A chat template marks turns with tokens such as `<|im_start|>`, and a tokenizer finds them wherever they are spelt out:
a web page that a tool fetched could begin a turn of the system's. Here a spelling that comes in a message is cut in
two, and the halves are tokenised apart, so the model sees the characters and no token. Text without such a spelling is
tokenised as ever.

The assistant's words are cut too: a page may ask it to quote a spelling, which it writes with ordinary tokens. Tags of
thoughts and calls stay whole in its text, for templates look for them there; none of them begins a turn.

Source: OWASP Top 10 for LLM applications 2025, LLM01 (prompt injection); `parse_special` of llama.cpp is the same idea.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from moltbot_models.engine import reasoning
from moltbot_models.engine.config import EngineError
from moltbot_models.engine.tool_dialects import ALL_TAGS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moltbot_models.generation import Media, Message, ToolCall, ToolSpec

_CUT = "\ufdd0"
"""Where a spelling is cut. A noncharacter, which has no place in text that is exchanged (Unicode 15, 23.7)."""
_LOOKED_FOR = ALL_TAGS | {reasoning.OPEN, reasoning.CLOSE}


class ControlTokens:
    """The spellings of one tokenizer's control tokens."""

    def __init__(self, spellings: Iterable[str]) -> None:
        """Take the spellings; those of one character cannot be cut and are left alone."""
        given = frozenset(text for text in spellings if len(text) > 1)
        self._all = _Spellings(given)
        self._said = _Spellings(given - _LOOKED_FOR)

    def message(self, message: Message) -> Message:
        """A message for the template, its spellings cut.

        Raises:
            EngineError: `INVALID_ARGUMENT` if the arguments of a call are nested too deep.
        """
        texts = self._said if message.role == "assistant" else self._all
        return replace(
            message,
            content=texts.cut(message.content),
            name=self._all.cut(message.name),
            parts=texts.parts(message.parts),
            tool_call_id=self._all.cut(message.tool_call_id),
            tool_calls=tuple(map(self._call, message.tool_calls)),
        )

    def tool(self, tool: ToolSpec) -> ToolSpec:
        """A tool for the template, its spellings cut: what it says of itself may come from a server elsewhere.

        Raises:
            EngineError: `INVALID_ARGUMENT` if its schema is nested too deep.
        """
        named = replace(tool, name=self._all.cut(tool.name), description=self._all.cut(tool.description))
        return replace(named, parameters=self._all.cut_json(tool.parameters, f"tools: the parameters of {tool.name}"))

    def _call(self, call: ToolCall) -> ToolCall:
        named = replace(call, id=self._all.cut(call.id), name=self._all.cut(call.name))
        return replace(named, arguments=self._all.cut_json(call.arguments, f"messages: arguments of {call.name}"))


class _Spellings:
    """What is cut of some texts."""

    def __init__(self, spellings: frozenset[str]) -> None:
        rests: dict[str, list[str]] = {}
        for text in sorted(spellings):
            rests.setdefault(text[0], []).append(re.escape(text[1:]))
        # One character and what must follow it: the rest is not taken, for another spelling may begin within it.
        begins = [f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items()]
        self._spelt = re.compile("|".join(begins)) if begins else None
        self._begun = frozenset(text[:end] for text in spellings for end in range(1, len(text)))
        self._longest = max(map(len, self._begun), default=0)

    def cut(self, text: str) -> str:
        if self._spelt is None:
            return text
        return self._spelt.sub(rf"\g<0>{_CUT}", text.replace(_CUT, ""))

    def parts(self, parts: tuple[str | Media, ...]) -> tuple[str | Media, ...]:
        """Parts of a message. Templates join them, so one that ends as a spelling begins is cut off from the next."""
        return tuple(self._part(part) if isinstance(part, str) else part for part in parts)

    def _part(self, text: str) -> str:
        cut = self.cut(text)
        end = cut.rstrip()[-self._longest :] if self._longest else ""
        return cut + _CUT if any(end[at:] in self._begun for at in range(len(end))) else cut

    def cut_json(self, text: str, what: str) -> str:
        """JSON text of which the template gets the values: a spelling may be hidden in its escapes."""
        if self._spelt is None:
            return text
        try:
            return json.dumps(self._value(json.loads(text)), ensure_ascii=False)
        except ValueError:
            return self.cut(text)  # the template shows it as it is written
        except RecursionError:
            raise EngineError("INVALID_ARGUMENT", f"{what} are nested too deep") from None

    def _value(self, value: object) -> object:
        if isinstance(value, str):
            return self.cut(value)
        if isinstance(value, list):
            return [self._value(one) for one in cast("list[Any]", value)]
        if isinstance(value, dict):
            return {self.cut(key): self._value(one) for key, one in cast("dict[str, Any]", value).items()}
        return value


def pieces(prompt: str) -> list[str]:
    """What of a rendered prompt is tokenised apart; nearly always all of it in one piece. None is empty."""
    return [piece for piece in prompt.split(_CUT) if piece]

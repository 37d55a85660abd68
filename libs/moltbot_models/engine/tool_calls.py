"""Finds tool calls in the stream of a model that writes them as Hermes and Qwen do."""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING, Any, cast

from moltbot_models.generation import ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import Mapping

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_HEADER = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')


class HermesToolCalls:
    r"""Splits text into plain text and calls of the form `<tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>`.

    Name and arguments are passed on as they come. What stands in the tags but is no call stays text.
    """

    def __init__(self) -> None:
        self._text = ""
        self._inside = False
        self._arguments: _JsonObject | None = None
        self._raw = ""
        self.calls = 0
        """Calls found so far."""

    def push(self, text: str) -> tuple[str, list[ToolCallDelta]]:
        """Return the plain text and the pieces of calls that this text completes."""
        self._text += text
        plain: list[str] = []
        pieces: list[ToolCallDelta] = []
        while self._inside_step(plain, pieces) if self._inside else self._outside_step(plain):
            pass
        return "".join(plain), pieces

    def finish(self) -> tuple[str, list[ToolCallDelta]]:
        """Return what is left at the end of the answer: a call whose closing tag is missing, or held-back text."""
        text, self._text = self._text, ""
        if not self._inside:
            return ("" if self.calls and text.isspace() else text), []
        self._inside = False
        if self._arguments is not None:
            return "", []
        pieces = self._whole(text)
        return ("", pieces) if pieces else (OPEN + text, [])

    def _outside_step(self, plain: list[str]) -> bool:
        before, tag, after = self._text.partition(OPEN)
        if tag:
            # Models put a line break before the tag; it is no part of the answer.
            plain.append(before.rstrip("\n"))
            self._text, self._inside, self._arguments = after, True, None
            return True
        keep = next((size for size in range(len(OPEN) - 1, 0, -1) if before.endswith(OPEN[:size])), 0)
        # Line breaks that may stand before a tag wait for what follows them.
        keep += len(before[: len(before) - keep]) - len(before[: len(before) - keep].rstrip("\n"))
        cut = len(before) - keep
        plain.append(before[:cut])
        self._text = before[cut:]
        return False

    def _inside_step(self, plain: list[str], pieces: list[ToolCallDelta]) -> bool:
        header = _HEADER.match(self._text) if self._arguments is None else None
        if header is not None and (name := _string(header.group(1))) is not None:
            self._arguments = _JsonObject()
            pieces.append(ToolCallDelta(self.calls, new_call_id(), name))
            self.calls += 1
            self._text = self._text[header.end() :]
        if self._arguments is not None and not self._arguments.complete:
            taken = self._arguments.push(self._text)
            if taken:
                pieces.append(ToolCallDelta(self.calls - 1, arguments=self._text[:taken]))
                self._text = self._text[taken:]
            if not self._arguments.complete:
                return False
        inner, tag, after = self._text.partition(CLOSE)
        if not tag:
            return False
        if self._arguments is None:
            whole = self._whole(inner)
            pieces += whole
            if not whole:
                plain.append(OPEN + inner + CLOSE)
        self._text, self._inside = after, False
        return True

    def _whole(self, text: str) -> list[ToolCallDelta]:
        """Parse a call that did not come in the usual order."""
        try:
            call = cast("Mapping[str, Any]", json.loads(text))
            name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return []
        if not isinstance(name, str):
            return []
        self.calls += 1
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return [ToolCallDelta(self.calls - 1, new_call_id(), name, written)]


def _string(written: str) -> str | None:
    try:
        return cast("str", json.loads(written))
    except ValueError:  # a backslash before what JSON does not know
        return None


class _JsonObject:
    """Finds the end of a JSON object in a stream by counting brackets outside strings."""

    def __init__(self) -> None:
        self._depth = 0
        self._string = self._escaped = False
        self.complete = False

    def push(self, text: str) -> int:
        """Return how many characters belong to the object; `complete` says whether it ended there."""
        for place, char in enumerate(text):
            if self._string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._string = False
            elif char == '"':
                self._string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.complete = True
                    return place + 1
        return len(text)


def new_call_id() -> str:
    """A fresh id for a call, as the API has them."""
    return f"call_{secrets.token_hex(12)}"

"""Finds tool calls in the stream of models that write them as plain JSON: Llama 3 and Mistral.

Source: Meta, Llama 3.1 model card and prompt formats (JSON based tool calling); mistral-common, instruct tokenizers v3
to v13 (`[TOOL_CALLS]`, `[ARGS]`).
"""

from __future__ import annotations

import json
import re
from typing import Any, cast

from moltbot_models.engine.tool_calls import new_call_id
from moltbot_models.generation import ToolCallDelta

PYTHON_TAG, TOOL_CALLS, ARGUMENTS, CALL_ID = "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_NAMED = re.compile(r"\s*([A-Za-z0-9_.:/-]{1,256})\s*(?:\[CALL_ID\][A-Za-z0-9]*\s*)?\[ARGS\]\s*")
_BETWEEN = re.compile(r"[\s,;\[\]]*")
_decoder = json.JSONDecoder()


class LlamaToolCalls:
    """An answer that begins with a JSON object of `name` and `parameters`, after `<|python_tag|>` or without.

    Further calls follow after `;`. An answer that begins otherwise is text, all of it.
    """

    def __init__(self) -> None:
        self._text = ""
        self._is_text = False
        self.calls = 0
        """Calls found so far."""

    def push(self, text: str) -> tuple[str, list[ToolCallDelta]]:
        """Return the plain text and the calls that this text completes."""
        if self._is_text:
            return text, []
        self._text += text
        if not self.calls and not self._may_be_call():
            self._is_text = True
            plain, self._text = self._text, ""
            return plain, []
        # Nothing ends without a bracket: long arguments are not read again with each piece.
        pieces = self._take() if "}" in text else []
        if (
            "}" in text
            and not self.calls
            and _object_at(self._text, len(self._text) - len(self._text.lstrip())) is not None
        ):
            # A whole object that is no call: the answer itself is JSON.
            self._is_text = True
            plain, self._text = self._text, ""
            return plain, []
        return "", pieces

    def finish(self) -> tuple[str, list[ToolCallDelta]]:
        """Return what is left at the end of the answer."""
        text, self._text = self._text, ""
        return ("" if self.calls and not text.strip(" \n;") else text), []

    def _may_be_call(self) -> bool:
        begun = self._text.lstrip()
        if len(begun) < len(PYTHON_TAG) and PYTHON_TAG.startswith(begun):
            return True
        return begun.removeprefix(PYTHON_TAG).lstrip()[:1] in {"{", ""}

    def _take(self) -> list[ToolCallDelta]:
        self._text = self._text.lstrip().removeprefix(PYTHON_TAG)
        pieces: list[ToolCallDelta] = []
        while (found := _call_at(self._text)) is not None:
            name, arguments, end = found
            pieces.append(ToolCallDelta(self.calls, new_call_id(), name, arguments))
            self.calls += 1
            self._text = self._text[end:]
        return pieces


class MistralToolCalls:
    """Text, then `[TOOL_CALLS]` and a JSON list of calls, or `[TOOL_CALLS]name[ARGS]{…}` for each call."""

    def __init__(self) -> None:
        self._text = ""
        self._inside = False
        self.calls = 0
        """Calls found so far."""

    def push(self, text: str) -> tuple[str, list[ToolCallDelta]]:
        """Return the plain text and the calls that this text completes."""
        self._text += text
        plain = ""
        if not self._inside:
            plain, self._text, self._inside = text_before(self._text, TOOL_CALLS)
        return plain, self._take() if self._inside and "}" in text else []

    def finish(self) -> tuple[str, list[ToolCallDelta]]:
        """Return what is left at the end of the answer."""
        text, self._text = self._text, ""
        if not self._inside:
            return text, []
        return ("" if self.calls and not text.strip(" \n,[]") else TOOL_CALLS + text), []

    def _take(self) -> list[ToolCallDelta]:
        pieces: list[ToolCallDelta] = []
        while (found := self._next()) is not None:
            name, arguments, end = found
            pieces.append(ToolCallDelta(self.calls, new_call_id(), name, arguments))
            self.calls += 1
            self._text = self._text[end:]
        return pieces

    def _next(self) -> tuple[str, str, int] | None:
        self._text = self._text.lstrip().removeprefix(TOOL_CALLS)
        named = _NAMED.match(self._text)
        if named is None:
            return _call_at(self._text)
        whole = _object_at(self._text, named.end())
        if whole is None:
            return None
        return named[1], self._text[named.end() : whole[1]], whole[1]


def text_before(text: str, tag: str) -> tuple[str, str, bool]:
    """What is certain to stand before a tag, what is left, and whether the tag has come."""
    before, found, after = text.partition(tag)
    if found:
        return before, after, True
    keep = next((size for size in range(len(tag) - 1, 0, -1) if before.endswith(tag[:size])), 0)
    cut = len(before) - keep
    return before[:cut], before[cut:], False


def _call_at(text: str) -> tuple[str, str, int] | None:
    """Name, arguments as written and the end of a complete call at the beginning of a text."""
    gap = _BETWEEN.match(text)
    begin = gap.end() if gap else 0
    found = _object_at(text, begin)
    if found is None:
        return None
    call, end = found
    name, arguments = call.get("name"), call.get("arguments", call.get("parameters", {}))
    if not isinstance(name, str):
        return None
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return name, written, end


def _object_at(text: str, begin: int) -> tuple[dict[str, Any], int] | None:
    if not text.startswith("{", begin):
        return None
    try:
        value, end = _decoder.raw_decode(text, begin)
    except (ValueError, RecursionError):
        return None
    return (cast("dict[str, Any]", value), end) if isinstance(value, dict) else None

"""Finds tool calls in the stream of models that write them as DeepSeek does, between tokens of full-width bars.

Source: DeepSeek-V3, R1 and V3.1, chat templates: `function`, separator, name and fenced JSON, later name,
separator and JSON.
"""

from __future__ import annotations

import json
import re

from moltbot_models.engine.json_calls import text_before
from moltbot_models.engine.tool_calls import new_call_id
from moltbot_models.generation import ToolCallDelta

CALLS_BEGIN, CALLS_END = "<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>"
CALL_BEGIN, CALL_END = "<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581end\uff5c>"
SEPARATOR = "<\uff5ctool\u2581sep\uff5c>"
FENCE, FENCE_END = "\n```json\n", "\n```"
_FENCED = re.compile(r"function" + SEPARATOR + r"([^\n]{1,256})\n```(?:json)?\n(.*)\n```\s*", re.DOTALL)
_PLAIN = re.compile(r"([^<>\n]{1,256})" + SEPARATOR + r"(.*)", re.DOTALL)


class DeepSeekToolCalls:
    """Text, then a block of calls; a call is passed on when it is whole. What is no call stays text."""

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
            plain, self._text, self._inside = text_before(self._text, CALLS_BEGIN)
        return plain, self._take() if self._inside and CALL_END in self._text else []

    def finish(self) -> tuple[str, list[ToolCallDelta]]:
        """Return what is left at the end of the answer: a call whose last tag is missing, or text."""
        text, self._text = self._text, ""
        if not self._inside:
            return text, []
        rest = text.replace(CALLS_END, "")
        if CALL_BEGIN in rest and (call := self._call(rest.partition(CALL_BEGIN)[2])) is not None:
            return "", [call]
        return ("" if self.calls and not rest.strip() else CALLS_BEGIN + text), []

    def _take(self) -> list[ToolCallDelta]:
        pieces: list[ToolCallDelta] = []
        while True:
            gap, begun, rest = self._text.partition(CALL_BEGIN)
            inner, ended, after = rest.partition(CALL_END)
            if not (begun and ended) or gap.strip() or (call := self._call(inner)) is None:
                return pieces
            pieces.append(call)
            self._text = after

    def _call(self, inner: str) -> ToolCallDelta | None:
        found = _FENCED.fullmatch(inner) or _PLAIN.fullmatch(inner)
        if found is None:
            return None
        try:
            arguments = json.loads(found[2])
        except (ValueError, RecursionError):
            return None
        if not isinstance(arguments, dict):
            return None
        self.calls += 1
        return ToolCallDelta(self.calls - 1, new_call_id(), found[1].strip(), found[2].strip())

"""A cheap guess at the kind of task, for requests that do not say it: no model, no dictionary, microseconds."""

from __future__ import annotations

import re

CHAT = "chat"
CODE = "code"
SUMMARY = "summary"
LONG_TEXT_SUMMARY = "long_text_summary"
TRANSLATION = "translation"
TOOL_USE = "tool_use"
LONG_TEXT = "long_text"

_LONG_BYTES = 16_384
_SUMMARY = re.compile(r"\b(summar(y|i[sz]e)|tl;?dr|zusammenfass|résum)|总结|摘要|概括", re.IGNORECASE)
_TRANSLATION = re.compile(r"\b(translate|übersetz|traduis|traduce)|翻译", re.IGNORECASE)
_CODE = re.compile(
    r"```|\b(def|class|import|function|SELECT|INSERT|#include|public static)\b.*[({;:]|"
    r"\b(refactor|unit test|stack ?trace|compile error|regex|bug in (my|this))\b",
    re.IGNORECASE,
)


def classify(excerpt: str, prompt_bytes: int, *, has_tools: bool) -> str:
    """Guess the kind of task.

    Args:
        excerpt: The start of what the person said last.
        prompt_bytes: Size of the whole prompt.
        has_tools: Whether tools are offered.

    Returns:
        A task type that rules may name.
    """
    if _SUMMARY.search(excerpt):
        return LONG_TEXT_SUMMARY if prompt_bytes >= _LONG_BYTES else SUMMARY
    if _TRANSLATION.search(excerpt):
        return TRANSLATION
    if _CODE.search(excerpt):
        return CODE
    if has_tools:
        return TOOL_USE
    return LONG_TEXT if prompt_bytes >= _LONG_BYTES else CHAT

"""Tells what a model thinks from what it answers: `<think>…</think>` before the answer, as Qwen3 and DeepSeek-R1 do."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"
CLOSED = f"\n{CLOSE}\n\n"
"""Ends the thinking that a template has opened, where there is to be none."""


def thinks(template: str) -> bool:
    """Whether a chat template is that of a model which thinks in tags."""
    return CLOSE in template


def opened(prompt: str) -> bool:
    """Whether a rendered prompt ends within thoughts."""
    return prompt.rstrip().endswith(OPEN)


class ThinkTags:
    """Splits an answer as it streams. Thoughts stand at its beginning alone; later tags are text like any other.

    Args:
        inside: Whether the prompt has opened the thoughts.
    """

    def __init__(self, *, inside: bool) -> None:
        self._state = "inside" if inside else "before"
        self._held = ""
        self._fresh = True
        """Nothing but blank lines has come since the last tag; they belong to it."""
        self.begun: str | None = None
        """The piece of the answer that came with the end of the thoughts; None until they are over."""

    def push(self, text: str) -> tuple[str, str]:
        """Return the thoughts and the answer that this text completes."""
        if self._state == "after" and not self._fresh:
            return "", text
        self._held += text
        if self._state == "before":
            begun = self._held.lstrip()
            if len(begun) < len(OPEN) and OPEN.startswith(begun):
                return "", ""
            if begun.startswith(OPEN):
                self._held, self._state = begun[len(OPEN) :], "inside"
            else:
                self._state, self._fresh, self.begun = "after", False, self._held
                return "", self._taken()
        thoughts = ""
        if self._state == "inside":
            before, tag, after = self._held.partition(CLOSE)
            if not tag:
                return self._stripped(self._all_but_tag()), ""
            thoughts, self._held = self._stripped(before.rstrip()), after
            self._state, self._fresh, self.begun = "after", True, after
        return thoughts, self._stripped(self._taken())

    def finish(self) -> tuple[str, str]:
        """Return what is left at the end of the answer."""
        rest = self._taken()
        return (self._stripped(rest.rstrip()), "") if self._state == "inside" else ("", rest)

    def _taken(self) -> str:
        taken, self._held = self._held, ""
        return taken

    def _all_but_tag(self) -> str:
        """What is held, but for blanks at its end and what may be the beginning of the closing tag."""
        keep = next((size for size in range(len(CLOSE) - 1, 0, -1) if self._held.endswith(CLOSE[:size])), 0)
        cut = len(self._held[: len(self._held) - keep].rstrip())
        taken, self._held = self._held[:cut], self._held[cut:]
        return taken

    def _stripped(self, text: str) -> str:
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        return text

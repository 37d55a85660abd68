"""Puts a frame into each paragraph of a text that arrives in pieces, and never where it could do harm.

A frame goes in after a whole grapheme at the end of a plain word, once a paragraph has eight characters of prose. It
never goes into code (fenced, indented, inline), JSON or anything else in brackets, URLs, paths and e-mail addresses,
tags and what stands in tool-call tags, headings, tables, and lines with TeX. Where a rule is in doubt, the text stays
unmarked: a lost mark costs evidence, a misplaced one breaks somebody's program. Code that nothing shows to be code (no
fence, no indent) cannot be told from prose.

Each character moves the automaton alone, so the pieces' borders never show in the output, and no text is held back: a
frame is written when the character *after* its place arrives. A paragraph that has its frame is only searched for
structure, at the speed of a regular expression.

Source: CommonMark 0.31 (code spans, indented code); RFC 8259 (JSON strings).
"""

from __future__ import annotations

import re
from enum import Enum, auto

from moltbot_watermark.code_fence import CodeFence
from moltbot_watermark.frame_place import LINE_PREFIX, WIDE_STOP, FramePlace

_IN_JSON = re.compile(r'["{}\[\]()\n]')  # round ones too: of `[0, 1)`, and of a link's target
_IN_STRING = re.compile(r'["\\\n]')
_INDENT = re.compile(r"[ \t]+")
_IN_SPAN = re.compile(r"[`\n]")
_IN_TAG = re.compile(r'[">\n]')
_IN_QUOTE = re.compile(r'["\n]')
_IN_OPAQUE = re.compile(r"[<\n]")
_TAG_NAME = re.compile(r"[\w|/!:.-]*", re.ASCII)
_OPAQUE_TAGS = frozenset({
    "tool", "tool_call", "tool_calls", "tool_use", "function", "function_call", "function_calls", "invoke", "parameter",
    "arguments", "json", "code", "pre", "script", "style", "svg", "math", "kbd", "samp", "textarea",
})  # fmt: skip


class _Mode(Enum):
    PROSE = auto()
    SPAN = auto()
    FENCE = auto()
    JSON = auto()
    LESS_THAN = auto()
    TAG = auto()
    OPAQUE = auto()


class StreamEmbedder:
    """Marks one text.

    Args:
        frame: From `unicode_mark.frame_text`.
    """

    def __init__(self, frame: str) -> None:
        self._frame = frame
        self._mode = _Mode.PROSE
        self._begun = False
        self._finished = False
        self._cut = False
        self._place = FramePlace()
        # A run of backticks or tildes.
        self._run = 0
        self._run_character = ""
        self._run_at_prefix = False
        self._span_length = 0
        self._fence = CodeFence("`", 3)
        self._after_fence = _Mode.PROSE
        # Brackets and tags.
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._tag = ""
        self._tag_named = False
        self._tag_last = ""
        self._closing = ""
        self._matched = 0

    def feed(self, text: str) -> str:
        """Take more text; pieces may end anywhere, also within a grapheme.

        Returns:
            The same text, with a frame where one is due.

        Raises:
            ValueError: The text was finished before.
        """
        if self._finished:
            raise ValueError("the text was finished; a new text needs an embedder of its own")
        parts: list[str] = []
        written = at = 0
        end = len(text)
        while at < end:
            if self._run:
                at = self._take_run(text, at, end)
            elif self._mode is _Mode.PROSE:
                at = self._take_prose(text, at, end)
                if self._cut:
                    parts += (text[written:at], self._frame)
                    written = at
                    self._cut, self._place.marked = False, True
            elif self._mode is _Mode.FENCE:
                at = self._take_fence(text, at, end)
            elif self._place.prefix:
                at = self._take_region_prefix(text, at)
            else:
                at = self._take_region(text, at, end)
        if not parts:
            return text
        parts.append(text[written:])
        return "".join(parts)

    def finish(self) -> str:
        """End the text.

        Returns:
            The last paragraph's frame if it is due only now, else nothing.
        """
        self._finished = True
        return self._frame if self._mode is _Mode.PROSE and not self._run and self._place.is_due() else ""

    def _leave_region(self) -> None:
        self._mode = _Mode.PROSE
        self._place.hard = True  # what touches code, a bracket or a tag is no plain word

    def _take_prose(self, text: str, at: int, end: int) -> int:
        while at < end:
            at = self._place.skip(text, at)
            if at == end:
                return end
            character = text[at]
            if character.isspace():
                if self._place.is_due():
                    self._cut = True
                    return at
                self._place.take_space(character)
            else:
                if character in WIDE_STOP and self._place.last.isalpha() and self._place.is_due():
                    self._cut = True
                    return at
                at_prefix = self._place.prefix
                if at_prefix:
                    self._place.begin_line(character)
                self._take_character(character, at_prefix=at_prefix)
                self._begun = True
                if self._run or self._mode is not _Mode.PROSE:
                    return at + 1
            at += 1
        return at

    def _take_character(self, character: str, *, at_prefix: bool) -> None:
        if character == "`" or (character == "~" and at_prefix):
            self._start_run(character, at_prefix=at_prefix)
        elif character in "{[" or (character == "(" and self._place.last == "]"):
            self._mode = _Mode.JSON
            self._depth, self._quoted, self._escaped = 1, False, False
        elif character == '"' and not self._begun:
            self._mode = _Mode.JSON  # the whole answer may be one JSON string
            self._depth, self._quoted, self._escaped = 0, True, False
        elif character == "<":
            self._mode = _Mode.LESS_THAN
        elif character in "$\\":
            self._place.open = False
        else:
            self._place.take_word(character)

    # Code.

    def _start_run(self, character: str, *, at_prefix: bool) -> None:
        self._run, self._run_character, self._run_at_prefix = 1, character, at_prefix
        self._place.prefix = self._place.blank = False

    def _take_run(self, text: str, at: int, end: int) -> int:
        while at < end and text[at] == self._run_character:
            self._run += 1
            at += 1
        if at == end:
            return at
        length, self._run = self._run, 0
        if self._run_at_prefix and length >= 3:
            # A fence interrupts whatever was open (CommonMark: blocks come before inlines), but for tags.
            self._after_fence = _Mode.OPAQUE if self._mode is _Mode.OPAQUE else _Mode.PROSE
            self._mode = _Mode.FENCE
            self._fence = CodeFence(self._run_character, length)
        elif self._mode is _Mode.PROSE:
            self._place.hard = True
            if self._run_character == "`":
                self._mode = _Mode.SPAN
                self._span_length = length
        elif self._mode is _Mode.SPAN and self._run_character == "`" and length == self._span_length:
            self._leave_region()
        return at

    def _take_fence(self, text: str, at: int, end: int) -> int:
        at = self._fence.take(text, at, end)
        if self._fence.is_closed:
            self._mode = self._after_fence
            self._place.blank = True
            self._place.new_line(of_prose=self._mode is _Mode.PROSE)
        return at

    # Regions: code spans, brackets, tags. Each handler ends at a line's end, for a fence may begin there.

    def _take_region_prefix(self, text: str, at: int) -> int:
        if self._mode in {_Mode.JSON, _Mode.SPAN} and not self._escaped:
            indent = _INDENT.match(text, at)
            if indent is not None:
                return indent.end()
        character = text[at]
        if character in "`~":
            self._start_run(character, at_prefix=True)
            return at + 1
        if not character.isspace():
            self._place.blank = False
        if character not in LINE_PREFIX and character != "\n":
            self._place.prefix = False
        return self._take_region(text, at, at + 1)

    def _take_region(self, text: str, at: int, end: int) -> int:
        if self._mode is _Mode.JSON:
            return self._take_json(text, at, end)
        if self._mode is _Mode.SPAN:
            return self._take_span(text, at, end)
        if self._mode is _Mode.TAG:
            return self._take_tag(text, at, end)
        if self._mode is _Mode.OPAQUE:
            return self._take_opaque(text, at, end)
        if text[at].isalpha() or text[at] in "/!?|":
            self._mode = _Mode.TAG
            self._tag, self._tag_named, self._tag_last, self._quoted = "", False, "", False
        else:
            self._leave_region()
        return at

    def _region_line_end(self) -> None:
        """A blank line ends a code span and a tag, as it ends the paragraph they stand in."""
        if self._place.blank and (self._mode is _Mode.TAG or (self._mode is _Mode.SPAN and self._span_length < 3)):
            self._leave_region()
        self._place.new_line(of_prose=self._mode is _Mode.PROSE)

    def _take_span(self, text: str, at: int, end: int) -> int:
        found = _IN_SPAN.search(text, at, end)
        if found is None:
            return end
        if found.group() == "\n":
            self._region_line_end()
        else:
            self._start_run("`", at_prefix=False)
        return found.end()

    def _take_json(self, text: str, at: int, end: int) -> int:
        while at < end:
            if self._escaped:
                self._escaped = False
                if text[at] != "\n":
                    at += 1
                    continue
            found = (_IN_STRING if self._quoted else _IN_JSON).search(text, at, end)
            if found is None:
                return end
            at = found.end()
            character = found.group()
            if character == "\n":
                self._region_line_end()
                return at
            if character == "\\":
                self._escaped = True
            elif character == '"':
                self._quoted = not self._quoted
            else:
                self._depth += 1 if character in "{[(" else -1
            if self._depth == 0 and not self._quoted:
                self._leave_region()
                self._place.last = character  # a bracket may go on as a link
                return at
        return at

    def _take_tag(self, text: str, at: int, end: int) -> int:
        if not self._tag_named:
            name = _TAG_NAME.match(text, at, end)
            assert name is not None  # it matches the empty string too
            self._tag = (self._tag + name.group())[:64]
            self._tag_last = name.group()[-1:] or self._tag_last
            self._tag_named = name.end() < end
            if not self._tag_named:
                return end
            at = name.end()
        found = (_IN_QUOTE if self._quoted else _IN_TAG).search(text, at, end)
        if found is None:
            self._tag_last = text[end - 1]
            return end
        if found.start() > at:
            self._tag_last = text[found.start() - 1]
        if found.group() == "\n":
            self._region_line_end()
        elif found.group() == '"':
            self._quoted = not self._quoted
            self._tag_last = '"'
        else:
            self._close_tag()
        return found.end()

    def _close_tag(self) -> None:
        name = self._tag.lower().rstrip("/")
        if self._tag_last != "/" and name.strip("|").rpartition(":")[2] in _OPAQUE_TAGS:
            self._mode = _Mode.OPAQUE
            self._closing, self._matched = f"</{name}", 0
        else:
            self._leave_region()

    def _take_opaque(self, text: str, at: int, end: int) -> int:
        while at < end:
            if self._matched:
                if text[at].lower() == self._closing[self._matched]:
                    self._matched += 1
                    at += 1
                    if self._matched == len(self._closing):
                        self._mode = _Mode.TAG
                        self._tag, self._tag_named, self._tag_last, self._quoted = "/", True, "", False
                        return at
                    continue
                self._matched = 0
            found = _IN_OPAQUE.search(text, at, end)
            if found is None:
                return end
            at = found.end()
            if found.group() == "\n":
                self._region_line_end()
                return at
            self._matched = 1
        return at


def embed(text: str, frame: str) -> str:
    """Mark a whole text."""
    embedder = StreamEmbedder(frame)
    return embedder.feed(text) + embedder.finish()

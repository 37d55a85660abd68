"""Puts a frame into each paragraph of a text that arrives in pieces, and never where it could do harm.

A frame goes in after a whole grapheme at the end of a plain word, once a paragraph has eight characters of prose. It
never goes into code (fenced, indented, inline), JSON or anything else in brackets, URLs, paths and e-mail addresses,
tags and what stands in tool-call tags, headings, tables, and lines with TeX. Where a rule is in doubt, the text stays
unmarked: a lost mark costs evidence, a misplaced one breaks somebody's program. Code that nothing shows to be code (no
fence, no indent) cannot be told from prose.

Each character moves the automaton alone, so the pieces' borders never show in the output, and no text is held back: a
frame is written when the character *after* its place arrives. A paragraph that has its frame is only searched for
structure, at the speed of a regular expression.

Source: CommonMark 0.31 (fences, code spans, indented code); UAX #29 (grapheme clusters); RFC 8259 (JSON strings).
"""

from __future__ import annotations

import re
import unicodedata
from enum import Enum, auto

_MIN_PROSE = 8
"""Characters of a paragraph before its frame; `true` or `null` alone as an answer in JSON is shorter."""
_STRUCTURE = re.compile(r"[\n`{\[<$\\]")
_WORD_END = re.compile(r"[\s`{\[<$\\]")
_IN_JSON = re.compile(r'["{}\[\]()\n]')  # round ones too: of `[0, 1)`, and of a link's target
_IN_STRING = re.compile(r'["\\\n]')
_INDENT = re.compile(r"[ \t]+")
_IN_SPAN = re.compile(r"[`\n]")
_IN_TAG = re.compile(r'[">\n]')
_IN_QUOTE = re.compile(r'["\n]')
_IN_OPAQUE = re.compile(r"[<\n]")
_TAG_NAME = re.compile(r"[\w|/!:.-]*", re.ASCII)
_LINE_PREFIX = frozenset(" \t>-*+.)0123456789")
_WORD_ASCII = frozenset("'\"*()-,.!?;:")
_WORD_OTHER = frozenset("‘’“”«»‐–—…·")  # noqa: RUF001 - these very characters
_SENTENCE_END = frozenset(".,!?;")
_INNER_STOP = _SENTENCE_END | {":"}
_WIDE_STOP = frozenset("，。！？；：、）」』】》")  # noqa: RUF001 - these very characters
_NO_BASE = frozenset(
    "\u2139"  # an emoji base, though a letter
    # Grapheme_Cluster_Break=Prepend: these join what follows them.
    "\u0d4e\U000111c2\U000111c3\U000113d1\U0001193f\U00011941\U00011a3a\U00011d46\U00011f02"
    "\U00011a84\U00011a85\U00011a86\U00011a87\U00011a88\U00011a89"
)
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
        # The paragraph.
        self._marked = False
        self._prose = 0
        # The line.
        self._prefix = True  # only indent, quote and list markers so far
        self._blank = True
        self._indent = 0
        self._open = True  # whether the line may carry a mark
        # The word.
        self._letters = 0
        self._hard = False  # no mark until white space: a URL, a path, code
        self._soft = False  # no mark until white space or a wide stop: digits, symbols
        self._last = self._before_last = ""
        # A run of backticks or tildes.
        self._run = 0
        self._run_character = ""
        self._run_at_prefix = False
        self._span_length = 0
        self._fence_character = ""
        self._fence_length = 0
        self._fence_line = 0
        self._fence_close = 0
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
                    self._cut, self._marked = False, True
            elif self._mode is _Mode.FENCE:
                at = self._take_fence(text, at, end)
            elif self._prefix:
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
        return self._frame if self._mode is _Mode.PROSE and not self._run and self._due() else ""

    def _due(self) -> bool:
        """Whether the word just ended may carry the paragraph's frame."""
        if self._marked or not self._open or self._prose < _MIN_PROSE:
            return False
        if self._hard or self._soft or self._letters < 2:
            return False
        base = self._last
        if base in _SENTENCE_END:
            base = self._before_last
        return base.isalpha() and self._last not in _NO_BASE

    # Lines and words.

    def _new_line(self) -> None:
        if self._blank and self._mode is _Mode.PROSE:
            self._marked = False
            self._prose = 0
        self._prefix = self._blank = self._open = True
        self._indent = 0
        self._new_word()

    def _new_word(self) -> None:
        self._letters = 0
        self._hard = self._soft = False
        self._last = self._before_last = ""

    def _leave_region(self) -> None:
        self._mode = _Mode.PROSE
        self._hard = True  # what touches code, a bracket or a tag is no plain word

    def _begin_line(self, character: str) -> None:
        """Note the first characters of a line, up to the first that is no indent, quote or list marker."""
        if self._blank and self._indent >= 4:
            self._open = False
        self._blank = False
        if character not in _LINE_PREFIX:
            self._prefix = False
            if character in "#|":
                self._open = False

    def _take_prose(self, text: str, at: int, end: int) -> int:
        while at < end:
            at = self._skip(text, at)
            if at == end:
                return end
            character = text[at]
            if character.isspace():
                if self._due():
                    self._cut = True
                    return at
                self._take_space(character)
            else:
                if character in _WIDE_STOP and self._last.isalpha() and self._due():
                    self._cut = True
                    return at
                at_prefix = self._prefix
                if at_prefix:
                    self._begin_line(character)
                self._take_character(character, at_prefix=at_prefix)
                self._begun = True
                if self._run or self._mode is not _Mode.PROSE:
                    return at + 1
            at += 1
        return at

    def _skip(self, text: str, at: int) -> int:
        """Pass over what cannot change anything: most of a marked paragraph, and the rest of a URL or path."""
        if self._prefix:
            return at
        if self._marked or not self._open:
            found = _STRUCTURE.search(text, at)
            return len(text) if found is None else found.start()
        if self._hard and self._last != "]":
            found = _WORD_END.search(text, at)
            stop = len(text) if found is None else found.start()
            self._prose += stop - at
            return stop
        return at

    def _take_space(self, character: str) -> None:
        if character == "\n":
            self._new_line()
            return
        self._new_word()
        if self._blank:
            self._indent += 4 if character == "\t" else 1

    def _take_character(self, character: str, *, at_prefix: bool) -> None:
        if character == "`" or (character == "~" and at_prefix):
            self._start_run(character, at_prefix=at_prefix)
        elif character in "{[" or (character == "(" and self._last == "]"):
            self._mode = _Mode.JSON
            self._depth, self._quoted, self._escaped = 1, False, False
        elif character == '"' and not self._begun:
            self._mode = _Mode.JSON  # the whole answer may be one JSON string
            self._depth, self._quoted, self._escaped = 0, True, False
        elif character == "<":
            self._mode = _Mode.LESS_THAN
        elif character in "$\\":
            self._open = False
        else:
            self._take_word(character)

    def _take_word(self, character: str) -> None:
        self._prose += 1
        if character.isalpha():
            self._letters += 1
            if self._last in _INNER_STOP and character.isascii():
                # A stop within a word: a host, a file, a member, a list without spaces.
                self._hard = self._hard or self._last in ".:"
                self._soft = True
        elif character in _WIDE_STOP:
            self._letters = 0
            self._soft = False
        elif character.isascii():
            self._soft = self._soft or character.isdigit()
            call = character == "(" and self._letters > 0
            self._hard = self._hard or call or not (character.isdigit() or character in _WORD_ASCII)
        elif character not in _WORD_OTHER and not unicodedata.category(character).startswith("M"):
            self._soft = True
        self._before_last, self._last = self._last, character

    # Code.

    def _start_run(self, character: str, *, at_prefix: bool) -> None:
        self._run, self._run_character, self._run_at_prefix = 1, character, at_prefix
        self._prefix = self._blank = False

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
            self._fence_character, self._fence_length = self._run_character, length
            self._fence_line, self._fence_close = 3, 0
        elif self._mode is _Mode.PROSE:
            self._hard = True
            if self._run_character == "`":
                self._mode = _Mode.SPAN
                self._span_length = length
        elif self._mode is _Mode.SPAN and self._run_character == "`" and length == self._span_length:
            self._leave_region()
        return at

    def _take_fence(self, text: str, at: int, end: int) -> int:
        """Go through a fenced block; `_fence_line` is 0 at a line's start, 1 in a fence, 2 after it, 3 in code."""
        while at < end:
            character = text[at]
            if character == "\n":
                closed = self._fence_line in {1, 2} and self._fence_close >= self._fence_length
                self._fence_line = self._fence_close = 0
                at += 1
                if closed:
                    self._mode = self._after_fence
                    self._blank = True
                    self._new_line()
                    return at
            elif self._fence_line == 3:
                found = text.find("\n", at)
                at = found if found >= 0 else end
            else:
                if character == self._fence_character and self._fence_line < 2:
                    self._fence_line = 1
                    self._fence_close += 1
                elif character in " \t\r":
                    self._fence_line = 2 if self._fence_line else 0
                elif character != ">" or self._fence_line:
                    self._fence_line = 3
                at += 1
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
            self._blank = False
        if character not in _LINE_PREFIX and character != "\n":
            self._prefix = False
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
        if self._blank and (self._mode is _Mode.TAG or (self._mode is _Mode.SPAN and self._span_length < 3)):
            self._leave_region()
        self._new_line()

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
                self._last = character  # a bracket may go on as a link
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

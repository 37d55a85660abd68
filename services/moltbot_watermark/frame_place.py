"""Where a frame may stand: after which word, on which line, once in a paragraph.

It stands after a whole grapheme at the end of a plain word, once a paragraph has eight characters of prose; never in a
URL, a path, an e-mail address or a number, nor on an indented line, a heading, a row of a table, or a line with TeX.
What is code, in brackets or in tags, `stream_embedder` knows.

Source: UAX #29 (grapheme clusters).
"""

from __future__ import annotations

import re
import unicodedata

_MIN_PROSE = 8
"""Characters of a paragraph before its frame; `true` or `null` alone as an answer in JSON is shorter."""
_STRUCTURE = re.compile(r"[\n`{\[<$\\]")
_WORD_END = re.compile(r"[\s`{\[<$\\]")
LINE_PREFIX = frozenset(" \t>-*+.)0123456789")
"""Indent, quote and list markers."""
_WORD_ASCII = frozenset("'\"*()-,.!?;:")
_WORD_OTHER = frozenset("‘’“”«»‐–—…·")  # noqa: RUF001 - these very characters
_SENTENCE_END = frozenset(".,!?;")
_INNER_STOP = _SENTENCE_END | {":"}
WIDE_STOP = frozenset("，。！？；：、）」』】》")  # noqa: RUF001 - these very characters
"""Ends a word where words have no spaces between them."""
_NO_BASE = frozenset(
    "\u2139"  # an emoji base, though a letter
    # Grapheme_Cluster_Break=Prepend: these join what follows them.
    "\u0d4e\U000111c2\U000111c3\U000113d1\U0001193f\U00011941\U00011a3a\U00011d46\U00011f02"
    "\U00011a84\U00011a85\U00011a86\U00011a87\U00011a88\U00011a89"
)


class FramePlace:
    """The paragraph, the line and the word that a text stands in."""

    def __init__(self) -> None:
        # The paragraph.
        self.marked = False
        self._prose = 0
        # The line.
        self.prefix = True  # only indent, quote and list markers so far
        self.blank = True
        self._indent = 0
        self.open = True  # whether the line may carry a mark
        # The word.
        self._letters = 0
        self.hard = False  # no mark until white space: a URL, a path, code
        self._soft = False  # no mark until white space or a wide stop: digits, symbols
        self.last = self._before_last = ""

    def is_due(self) -> bool:
        """Whether the word just ended may carry the paragraph's frame."""
        if self.marked or not self.open or self._prose < _MIN_PROSE:
            return False
        if self.hard or self._soft or self._letters < 2:
            return False
        base = self.last
        if base in _SENTENCE_END:
            base = self._before_last
        return base.isalpha() and self.last not in _NO_BASE

    def new_line(self, *, of_prose: bool) -> None:
        """Begin a line; after a blank one of prose a paragraph begins."""
        if self.blank and of_prose:
            self.marked = False
            self._prose = 0
        self.prefix = self.blank = self.open = True
        self._indent = 0
        self._new_word()

    def _new_word(self) -> None:
        self._letters = 0
        self.hard = self._soft = False
        self.last = self._before_last = ""

    def begin_line(self, character: str) -> None:
        """Note the first characters of a line, up to the first that is no indent, quote or list marker."""
        if self.blank and self._indent >= 4:
            self.open = False
        self.blank = False
        if character not in LINE_PREFIX:
            self.prefix = False
            if character in "#|":
                self.open = False

    def skip(self, text: str, at: int) -> int:
        """Pass over what cannot change anything: most of a marked paragraph, and the rest of a URL or path."""
        if self.prefix:
            return at
        if self.marked or not self.open:
            found = _STRUCTURE.search(text, at)
            return len(text) if found is None else found.start()
        if self.hard and self.last != "]":
            found = _WORD_END.search(text, at)
            stop = len(text) if found is None else found.start()
            self._prose += stop - at
            return stop
        return at

    def take_space(self, character: str) -> None:
        """Take white space within prose."""
        if character == "\n":
            self.new_line(of_prose=True)
            return
        self._new_word()
        if self.blank:
            self._indent += 4 if character == "\t" else 1

    def take_word(self, character: str) -> None:
        """Take a character of a word, or beside one."""
        self._prose += 1
        if character.isalpha():
            self._letters += 1
            if self.last in _INNER_STOP and character.isascii():
                # A stop within a word: a host, a file, a member, a list without spaces.
                self.hard = self.hard or self.last in ".:"
                self._soft = True
        elif character in WIDE_STOP:
            self._letters = 0
            self._soft = False
        elif character.isascii():
            self._soft = self._soft or character.isdigit()
            call = character == "(" and self._letters > 0
            self.hard = self.hard or call or not (character.isdigit() or character in _WORD_ASCII)
        elif character not in _WORD_OTHER and not unicodedata.category(character).startswith("M"):
            self._soft = True
        self._before_last, self.last = self.last, character

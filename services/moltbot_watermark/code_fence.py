"""A fenced block of code, from its opening to its closing fence.

Source: CommonMark 0.31, section 4.5.
"""

from __future__ import annotations


class CodeFence:
    """One block.

    Args:
        character: Of its opening fence, a backtick or a tilde.
        length: Of it.
    """

    def __init__(self, character: str, length: int) -> None:
        self._character = character
        self._length = length
        self._line = 3
        """0 at a line's start, 1 in what may be the closing fence, 2 after it, 3 in code or behind the opening one."""
        self._close = 0
        self.is_closed = False

    def take(self, text: str, at: int, end: int) -> int:
        """Go on through the block; returns where it stopped: behind the closing fence's line, or at the end."""
        while at < end:
            character = text[at]
            if character == "\n":
                self.is_closed = self._line in {1, 2} and self._close >= self._length
                self._line = self._close = 0
                at += 1
                if self.is_closed:
                    return at
            elif self._line == 3:
                found = text.find("\n", at)
                at = found if found >= 0 else end
            else:
                if character == self._character and self._line < 2:
                    self._line = 1
                    self._close += 1
                elif character in " \t\r":
                    self._line = 2 if self._line else 0
                elif character != ">" or self._line:
                    self._line = 3
                at += 1
        return at

"""Rows for training: conversations that share one system turn, packed so that none sees another.

A row starts with a setting; many conversations follow it. Each sees the setting and itself, at the positions it would
have alone, so the cost of showing the tools is paid once a row and not once a conversation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiny_model import conversation, dialogues
from tiny_model.skills import prose
from tiny_model.tokenizer import END_OF_TEXT, SPECIAL, TAGS

if TYPE_CHECKING:
    import random

    from tokenizers import Tokenizer


_SKIP_SHARE, _MOST_SKIPPED = 0.2, 500
_FIRST_TEXT_TOKEN = len(SPECIAL) + len(TAGS)


@dataclass(frozen=True, slots=True)
class Row:
    """`tokens`, `positions`, `learnt` (whether the token is predicted from the one before), `parts` (0 what all see, else
    the number of the conversation), `roots` (the number of the setting), each of shape [length].
    """

    tokens: np.ndarray
    positions: np.ndarray
    learnt: np.ndarray
    parts: np.ndarray
    roots: np.ndarray


class Packer:
    """Makes rows from a source of choices."""

    def __init__(self, tokenizer: Tokenizer, length: int, seed: random.Random) -> None:
        self._tokenizer, self._length, self._rng = tokenizer, length, seed
        self._end = tokenizer.token_to_id(END_OF_TEXT)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def row(self) -> Row:
        """Make the next row; what does not fit at its end is cut."""
        tokens: list[int] = []
        positions: list[int] = []
        learnt: list[bool] = []
        parts: list[int] = []
        roots: list[int] = []
        root = part = 0
        while len(tokens) < self._length:
            root += 1
            there = dialogues.scene(self._rng)
            head = self._ids(conversation.head(there.setting))
            self._put(head, [False] * len(head), 0, (tokens, positions, learnt))
            parts += [0] * len(head)
            roots += [root] * len(head)
            budget = self._length - len(tokens) if there.setting.tools else self._rng.randint(150, 300)
            while budget > 0 and len(tokens) < self._length:
                part += 1
                ids, marks, gaps = self._one(there)
                start = len(head) if ids[0] != self._end else 0
                self._put(ids, marks, start, (tokens, positions, learnt), gaps)
                parts += [part] * len(ids)
                # Plain prose stands alone: it sees no setting.
                roots += [root if start or not head else root + 1_000_000] * len(ids)
                budget -= len(ids)
        cut = slice(0, self._length)
        arrays = (np.asarray(tokens[cut]), np.asarray(positions[cut]), np.asarray(learnt[cut]))
        return Row(*arrays, np.asarray(parts[cut]), np.asarray(roots[cut]))

    def copy_row(self) -> Row:
        """Make a row of strings of random tokens, each said twice; the second time is learnt.

        Finding what came after the same words before is the mechanism under calls, answers and recall; shown bare and
        early, it forms in a few hundred steps. Source: Olsson et al., "In-context Learning and Induction Heads" (2022).
        """
        rng = self._rng
        size = self._tokenizer.get_vocab_size()
        tokens: list[int] = []
        positions: list[int] = []
        learnt: list[bool] = []
        parts: list[int] = []
        while len(tokens) < self._length:
            alphabet = (
                range(_FIRST_TEXT_TOKEN, size) if rng.random() < 0.7 else rng.sample(range(_FIRST_TEXT_TOKEN, size), 12)
            )
            start = rng.randrange(_FIRST_TEXT_TOKEN, size)
            said = [start, *rng.choices(alphabet, k=rng.randint(4, 40))]
            filler = rng.choices(range(_FIRST_TEXT_TOKEN, size), k=rng.randint(0, 20))
            ids = [*said, *filler, *said]
            parts += [parts[-1] + 1 if parts else 1] * len(ids)
            self._put(
                ids, [False] * (len(said) + len(filler) + 1) + [True] * (len(said) - 1), 0, (tokens, positions, learnt)
            )
        cut = slice(0, self._length)
        arrays = (np.asarray(tokens[cut]), np.asarray(positions[cut]), np.asarray(learnt[cut]))
        return Row(*arrays, np.asarray(parts[cut]), np.ones(self._length, dtype=np.int64))

    def _one(self, there: dialogues.Scene) -> tuple[list[int], list[bool], list[int]]:
        if self._rng.random() < 0.01:
            ids = self._ids(
                prose.story(self._rng, self._rng.choice(list(prose.TOPICS)), self._rng.randint(6, 10)) + END_OF_TEXT
            )
            return [self._end, *ids], [False] + [True] * len(ids), [0] * (len(ids) + 1)
        ids: list[int] = []
        marks: list[bool] = []
        gaps: list[int] = []
        # Positions skip ahead between turns now and then, as if much had been said, so that facts are found from afar.
        gap, skips = 0, self._rng.random() < _SKIP_SHARE
        for text, learn in conversation.pieces(dialogues.conversation(self._rng, there)):
            more = self._ids(text)
            ids += more
            marks += [learn] * len(more)
            gaps += [gap] * len(more)
            if skips and text == "\n" and self._rng.random() < 0.5:
                gap += self._rng.randint(0, _MOST_SKIPPED)
        return ids, marks, gaps

    @staticmethod
    def _put(
        ids: list[int],
        marks: list[bool],
        start: int,
        into: tuple[list[int], list[int], list[bool]],
        gaps: list[int] | None = None,
    ) -> None:
        into[0].extend(ids)
        into[1].extend(start + place + (gaps[place] if gaps else 0) for place in range(len(ids)))
        into[2].extend(marks)


def sees(row: Row) -> np.ndarray:
    """Which token sees which: bool [length, length]."""
    same_root = row.roots[:, None] == row.roots[None, :]
    same_part = (row.parts[:, None] == row.parts[None, :]) | (row.parts[None, :] == 0)
    return same_root & same_part & np.tri(len(row.tokens), dtype=bool)

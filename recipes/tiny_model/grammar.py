"""Phrasings: text with `[a|b|]` choices and `{slot}` values."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from tiny_model import frames

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SPACES, _LOOSE = re.compile(r" {2,}"), re.compile(r"(?<!=) (?=[,.?;!])")

OPENERS = (
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "Please ",
    "Hi, ",
    "Hey, ",
    "Hello, ",
    "OK, ",
    "Now ",
    "Quick question: ",
    "Can you help? ",
    "I need this: ",
    "Next: ",
    "Well, ",
    "Thanks. ",
    "Great. ",
    "Also, ",
    "So ",
    "And ",
    "One more: ",
    "Tell me, ",
)
CLOSERS = (
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    " please",
    ", please",
    " for me",
    " now",
    " thanks",
    ", thanks",
    " quickly",
    ", if you can",
)
HELD_OUT_OPENERS = ("", "", "I was wondering: ", "By the way, ", "Good day. ", "Here is a task. ")
HELD_OUT_CLOSERS = ("", "", " right away", ", would you", " then")


def expand(rng: random.Random, phrasing: str, slots: Mapping[str, str]) -> str:
    """Choose one of each `[a|b]` and fill each `{slot}`.

    Raises:
        KeyError: The phrasing has a slot that `slots` has not.
    """
    while match := _CHOICE.search(phrasing):
        phrasing = phrasing[: match.start()] + rng.choice(match.group(1).split("|")) + phrasing[match.end() :]
    return re.sub(r"\{(\w+)\}", lambda found: slots[found.group(1)], phrasing)


def tidy(phrasing: str) -> str:
    """Without the double spaces that empty choices leave, and with a capital at the beginning."""
    phrasing = _LOOSE.sub("", _SPACES.sub(" ", phrasing)).strip()
    return phrasing if phrasing.startswith("{") else phrasing[0].upper() + phrasing[1:]


def matcher(phrasing: str) -> re.Pattern[str]:
    """A pattern of all skeletons (slots unfilled) that a phrasing can become."""
    pattern = re.escape(phrasing)
    pattern = pattern.replace(r"\[", "(?:").replace(r"\]", ")").replace(r"\|", "|")
    pattern = pattern.replace(r"\ ", " *")  # an empty choice takes a space with it
    return re.compile(pattern, re.IGNORECASE)


def skeletons(phrasing: str) -> list[str]:
    """All skeletons (slots unfilled) that a phrasing can become."""
    match = _CHOICE.search(phrasing)
    if not match:
        return [phrasing]
    return [
        whole
        for choice in match.group(1).split("|")
        for whole in skeletons(phrasing[: match.start()] + choice + phrasing[match.end() :])
    ]


def question(
    rng: random.Random,
    known: Sequence[str],
    unknown: Sequence[str],
    slots: Mapping[str, str],
    held_out: bool,
    *,
    free: bool = False,
) -> str:
    """A user's sentence: opener, phrasing, closer, end mark; of the held-out kind where asked for.

    Where it is `free`, values are known by themselves and the words between them may be any others.
    """
    skeleton = tidy(expand(rng, rng.choice(unknown if held_out else known), KEEP))
    if not held_out:
        other = frames.other_words(rng, skeleton, free=free)
        skeleton = skeleton if _bare(other) in _bare_skeletons(tuple(unknown)) else other
    core = expand(rng, skeleton, slots)
    if held_out:
        opener, closer = rng.choice(HELD_OUT_OPENERS), rng.choice(HELD_OUT_CLOSERS)
    else:
        before, after = rng.random() < frames.BEFORE_SHARE, rng.random() < frames.AFTER_SHARE
        opener = _noise(rng, frames.BEFORE, HELD_OUT_OPENERS) if before else rng.choice(OPENERS)
        closer = _noise(rng, frames.AFTER, HELD_OUT_CLOSERS) if after else rng.choice(CLOSERS)
    mark = ""
    if core[-1] in ".?!":
        core, mark = core[:-1], core[-1]
    # "Hi, 12 + 8?" and "Hi, what…" but not "Hi, ada": only words of the phrasing itself change case.
    own = not skeleton.startswith("{")
    if opener and opener[-2] not in ".:?!" and own and rng.random() < (0.5 if held_out else 0.8):
        core = core[0].lower() + core[1:]
    text = opener + core + closer + mark
    style = rng.random()
    if style < 0.06:
        text = text.rstrip(".?!")
    elif style < 0.10 and (opener or own):
        text = text[0].lower() + text[1:]
    return text


def _noise(rng: random.Random, framed: Sequence[str], held_out: Sequence[str]) -> str:
    """What stands before or after a question in training: never what the evaluation has there."""
    kept = {_bare(text.strip(" ,:.")) for text in held_out}
    while True:
        text = frames.noise(rng, rng.choice(framed), expand)
        if _bare(text.strip(" ,:.")) not in kept:
            return text


def _bare(phrasing: str) -> str:
    return phrasing.rstrip(".?!").lower()


@functools.cache
def _bare_skeletons(phrasings: tuple[str, ...]) -> frozenset[str]:
    return frozenset(_bare(skeleton) for phrasing in phrasings for skeleton in skeletons(phrasing))


class _Keep(dict[str, str]):
    """Slots that stay slots."""

    def __missing__(self, slot: str) -> str:
        return f"{{{slot}}}"


KEEP = _Keep()

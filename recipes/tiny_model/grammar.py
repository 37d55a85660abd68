"""Phrasings: text with `[a|b|]` choices and `{slot}` values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

_CHOICE = re.compile(r"\[([^\[\]]*)\]")

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


def matcher(phrasing: str) -> re.Pattern[str]:
    """A pattern of all skeletons (slots unfilled) that a phrasing can become."""
    pattern = re.escape(phrasing)
    pattern = pattern.replace(r"\[", "(?:").replace(r"\]", ")").replace(r"\|", "|")
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
    rng: random.Random, known: Sequence[str], unknown: Sequence[str], slots: Mapping[str, str], held_out: bool
) -> str:
    """A user's sentence: opener, phrasing, closer, end mark; of the held-out kind where asked for."""
    openers, closers = (HELD_OUT_OPENERS, HELD_OUT_CLOSERS) if held_out else (OPENERS, CLOSERS)
    core = expand(rng, rng.choice(unknown if held_out else known), slots)
    opener = rng.choice(openers)
    mark = ""
    if core[-1] in ".?!":
        core, mark = core[:-1], core[-1]
    # "Hi, 12 + 8?" and "Hi, what…" but not "Hi, ada": only words of the phrasing itself change case.
    if opener and opener[-2] not in ".:?" and core.split(" ")[0] in _LOWERED:
        core = core[0].lower() + core[1:]
    text = opener + core + rng.choice(closers) + mark
    style = rng.random()
    if style < 0.06:
        text = text.rstrip(".?!")
    elif style < 0.10 and text.split(" ")[0].strip(",:") in _LOWERED:
        text = text[0].lower() + text[1:]
    return text


_LOWERED = frozenset(
    [
        "What",
        "How",
        "Calculate",
        "Compute",
        "Work",
        "Convert",
        "Change",
        "Tell",
        "Give",
        "Look",
        "Find",
        "Search",
        "Show",
        "Get",
        "Evaluate",
        "Solve",
        "Add",
        "Multiply",
        "Divide",
        "Subtract",
        "Take",
        "Please",
        "Could",
        "Can",
        "Would",
        "Do",
        "My",
        "The",
        "Remember",
        "Note",
        "Which",
        "Is",
        "In",
        "When",
        "Who",
        "Where",
        "Turn",
        "Express",
        "Write",
        "Say",
        "Use",
        "Check",
        "Fetch",
        "Query",
        "Retrieve",
        "List",
        "Let",
        "Make",
        "Describe",
        "Send",
        "Book",
        "Hi",
        "Hey",
        "Hello",
        "OK",
        "Now",
        "Quick",
        "Next",
        "Well",
        "Thanks",
        "Great",
        "Also",
        "So",
        "And",
        "One",
        "Are",
        "You",
        "Have",
        "Should",
        "Think",
        "Know",
        "Repeat",
        "Remind",
        "Return",
    ]
)

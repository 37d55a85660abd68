"""Facts that the user told, or that a memory line of the system turn holds, and the honest answer where there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tiny_model import frames, lexicon, words
from tiny_model.conversation import Exchange, Said
from tiny_model.grammar import KEEP, expand, tidy
from tiny_model.skills.asking import ASKED
from tiny_model.skills.facts import (
    ANY_ASKED,
    ANY_ASKED_HELD_OUT,
    ANY_TOLD,
    ANY_TOLD_HELD_OUT,
    ATTRIBUTES,
    HELD_OUT_ATTRIBUTES,
    KINDS,
    Kind,
)

if TYPE_CHECKING:
    import random


NOTED = ["OK, I will remember that.", "Noted.", "Thank you, I will remember that."]
_AFTER = [phrasing for phrasing in frames.AFTER if phrasing.startswith(",")]
_WHERE = ["", "", "", "", "", "", "Hi. ", "Thanks. ", "OK. ", "Good. ", "By the way, ", "Now ", "And ", "So "]
# By which of these a loose sentence about a kind is known: in a telling beside the value, in a question alone.
_TOLD_BY = {
    "name": ["name", "I am", "call me", "named"],
    "city": ["live", "home", "flat", "my town", "my city", "house"],
    "job": ["work", "job", "profession", "paid as", "career"],
    "age": ["years old", "age", "years"],
    "hobby": ["hobby", "love", "enjoy", "fun", "free time", "pastime"],
}
_ASKED_BY = {
    "name": ["my name", "who I am", "who am I", "I am called", "my first name"],
    "city": ["where I live", "where do I live", "my city", "my town", "my home"],
    "job": ["my job", "my work", "my profession", "do I work as", "I work as"],
    "age": ["my age", "how old", "years old am I", "how many years"],
    "hobby": ["my hobby", "do I enjoy", "I love to do", "do I like", "my pastime"],
}
_ASKING = ["what", "which", "tell me", "do you know", "remember", "name", "say", "who", "how", "I wonder", "I forgot"]
_LOOSE_SHARE = 0.05
_COMPOSED_SHARE = 0.45
# What tells one fact from another is no noise around a fact.
_TELLING = frozenset(
    """who whom whose where how name names named call calls called live lives living home house flat town city village place
    work works working job jobs profession trade paid pay career age old young year years birthday hobby fun love loved like
    likes liked enjoy prefer free pet""".split()
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact, told and asked for in some words."""

    key: str
    told: str
    framed: str
    """`told` with words around it that do not matter."""
    asked: str
    value: str
    answer: str
    unknown: str


def fact(rng: random.Random, held_out_phrasing: bool, held_out_values: bool) -> Fact:
    """Make a fact up."""
    made = (_of_a_kind if rng.random() < 0.55 else _of_an_attribute)(rng, held_out_phrasing, held_out_values)
    return made if held_out_phrasing else replace(made, framed=_framed(rng, made.told))


def _of_a_kind(rng: random.Random, held_out_phrasing: bool, held_out_values: bool) -> Fact:
    kind = KINDS[0] if rng.random() < 0.35 else rng.choice(KINDS)
    value = kind.value(rng, held_out_values)
    first, _, rest = value.partition(" ")
    slots = {"v": value, "v0": first, "v1": rest}
    if held_out_phrasing:
        told, asked = _filled(rng, kind.told_held_out, slots), _filled(rng, kind.asked_held_out, slots)
    else:
        told, asked = _known_words(rng, kind, slots)
        if not held_out_values:
            by = (f"my {first}", f"my {first}")
            if kind.label != "pet":
                by = (rng.choice(_TOLD_BY[kind.label]), rng.choice(_ASKED_BY[kind.label]))
            told = _loosely_told(rng, by[0], rest if kind.label == "pet" else value) or told
            asked = _loosely_asked(rng, by[1]) or asked
    answer = expand(rng, kind.answer, slots)
    if kind.label == "pet":
        return Fact(f"pet {first}", told, told, asked, rest, answer, f"You have not told me the name of your {first}.")
    missing = {"city": "where you live", "age": "how old you are"}.get(kind.label, f"your {kind.label}")
    return Fact(kind.label, told, told, asked, value, answer, f"You have not told me {missing}.")


def _known_words(rng: random.Random, kind: Kind, slots: dict[str, str]) -> tuple[str, str]:
    """How a fact of a kind is told and asked for; now and then in the words for any attribute: "Remember that my job is…"."""
    tellings, askings = kind.told, kind.asked
    if kind.label != "pet":
        slots = {**slots, "a": "home town" if kind.label == "city" else kind.label}
        tellings = ANY_TOLD if rng.random() < 0.25 else tellings
        askings = ANY_ASKED if rng.random() < 0.25 else askings
    # Such words can come to be those held out for this kind: "Do you still have my name?"
    held_out = {_plain(expand(rng, one, slots)) for one in kind.asked_held_out}
    while True:
        composed = rng.random() < _COMPOSED_SHARE
        asked = _filled(rng, ASKED[kind.label] if composed else askings, slots)
        if _plain(asked) not in held_out:
            return _filled(rng, tellings, slots), asked


def _of_an_attribute(rng: random.Random, held_out_phrasing: bool, held_out_values: bool) -> Fact:
    attribute = rng.choice(HELD_OUT_ATTRIBUTES) if held_out_values else _attribute(rng)
    value = _value(rng, attribute, held_out_values)
    slots = {"a": attribute, "v": value}
    told = _filled(rng, ANY_TOLD_HELD_OUT if held_out_phrasing else ANY_TOLD, slots)
    known = ASKED[""] if rng.random() < _COMPOSED_SHARE else ANY_ASKED
    asked = _filled(rng, ANY_ASKED_HELD_OUT if held_out_phrasing else known, slots)
    if not held_out_phrasing and not held_out_values:
        told = _loosely_told(rng, f"my {attribute}", value) or told
        asked = _loosely_asked(rng, f"my {attribute}") or asked
    answer, unknown = f"Your {attribute} is {value}.", f"You have not told me your {attribute}."
    return Fact(attribute, told, told, asked, value, answer, unknown)


def _loosely_told(rng: random.Random, by: str, value: str) -> str:
    """Now and then a sentence in which nothing but the two is sure; else nothing."""
    return _loose(rng, rng.sample([by, value], 2), ("",)) if rng.random() < _LOOSE_SHARE else ""


def _loosely_asked(rng: random.Random, by: str) -> str:
    parts = [rng.choice(_ASKING), by]
    return _loose(rng, parts if rng.random() < 0.8 else parts[::-1], ("", "?")) if rng.random() < _LOOSE_SHARE else ""


def _loose(rng: random.Random, parts: list[str], ends: tuple[str, ...]) -> str:
    own = _words(" ".join(parts)) & _TELLING
    while True:
        text = frames.loose(rng, parts, ends)
        if _words(text) & _TELLING == own:
            return text


def _noise(rng: random.Random, phrasings: list[str]) -> str:
    while True:
        text = frames.noise(rng, rng.choice(phrasings), expand)
        if not _words(text) & _TELLING:
            return text


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _plain(text: str) -> str:
    return text.rstrip(".?!").lower()


def _attribute(rng: random.Random) -> str:
    """What can be remembered: half of a list, half of an open vocabulary, of one word or two."""
    while True:
        kind = rng.random()
        if kind < 0.50:
            attribute = rng.choice(ATTRIBUTES)
        elif kind < 0.62:
            attribute = rng.choice(lexicon.NOUNS)
        elif kind < 0.85:
            attribute = f"{rng.choice((*lexicon.ADJECTIVES, *lexicon.NOUNS))} {rng.choice(lexicon.NOUNS)}"
        elif kind < 0.92:
            attribute = f"{words.unknown(rng)} {rng.choice(lexicon.NOUNS)}"
        else:
            attribute = words.unknown(rng)
        if attribute not in HELD_OUT_ATTRIBUTES:
            return attribute


def _filled(rng: random.Random, phrasings: list[str], slots: dict[str, str]) -> str:
    return expand(rng, tidy(expand(rng, rng.choice(phrasings), KEEP)), slots)


def _framed(rng: random.Random, text: str) -> str:
    """The sentence among words that do not matter; what follows a value stands behind a comma, so that it ends clearly."""
    if rng.random() < 0.15:
        before = _noise(rng, frames.BEFORE)
        own = text.split(" ", maxsplit=1)[0] in {
            "My",
            "The",
            "Remember",
            "Note",
            "Call",
            "People",
            "This",
            "They",
            "As",
            "For",
        }
        text = before + (text[0].lower() + text[1:] if own and before[-2] not in ".:?!" else text)
    if rng.random() < 0.08:
        text = text.rstrip("?") + _noise(rng, _AFTER) + ("?" if text[-1] == "?" else "")
    return text


def _value(rng: random.Random, attribute: str, held_out: bool) -> str:
    last = attribute.rpartition(" ")[2]
    if rng.random() < 0.15:
        return words.code(rng) if rng.random() < 0.5 else words.unknown(rng)
    if last in {"color", "car", "bike"}:
        return words.pick(rng, words.COLORS, words.HELD_OUT_COLORS, held_out)
    if last == "food":
        return words.pick(rng, words.FOODS, words.HELD_OUT_FOODS, held_out)
    if last in {"number", "code", "password", "key", "size", "seat", "gate", "desk", "flight", "line", "budget"}:
        return words.code(rng)
    if last == "birthday":
        return f"{rng.choice(words.MONTHS)} {rng.randint(1, 28)}"
    if last in {"city", "country", "street", "hotel", "school", "company", "project"}:
        return words.pick(rng, words.CITIES, words.HELD_OUT_CITIES, held_out)
    return words.name(rng, held_out) if rng.random() < 0.7 else words.code(rng)


def tell(rng: random.Random, told: Fact) -> list[Said]:
    """The turn in which a fact is told."""
    text = told.framed + rng.choice((".", ".", ".", ".", "", "!"))
    if told.key == "name":
        reply = f"Nice to meet you, {told.value}." if rng.random() < 0.7 else f"Hello {told.value}, nice to meet you."
    else:
        reply = NOTED[0] if rng.random() < 0.7 else rng.choice(NOTED)
    return [Said("user", text), Said("assistant", reply)]


def ask(rng: random.Random, asked: Fact, known: bool, held_out_phrasing: bool = False) -> Exchange:
    """The turn in which a fact is asked for."""
    opener = "" if held_out_phrasing else rng.choice(_WHERE)
    body = asked.asked if held_out_phrasing else _framed(rng, asked.asked)
    if opener and opener[-2] != "." and body.split(" ")[0] not in {"I", "In"}:
        body = body[0].lower() + body[1:]
    answer = asked.answer if known else asked.unknown
    said = [Said("user", opener + body), Said("assistant", answer)]
    return Exchange("recall" if known else "not told", said, expect=asked.value if known else "not told")


def memory_lines(rng: random.Random, facts: list[Fact]) -> str:
    """Facts as a system turn gives them."""
    said = [fact.told.rstrip(".") for fact in facts]
    plain = [
        fact.answer.rstrip(".")
        .replace("Your ", "The user's ")
        .replace("You ", "The user ")
        .replace("user are", "user is")
        .replace("user live", "user lives")
        for fact in facts
    ]
    lines = plain if rng.random() < 0.5 else said
    head = rng.choice(
        (
            "Memory:",
            "Known about the user:",
            "What you remember:",
            "Facts:",
            "Relevant memory:",
            "From earlier conversations:",
        )
    )
    if rng.random() < 0.5:
        return head + "".join(f"\n- {line}" for line in lines)
    return head + " " + " ".join(f"{line}." for line in lines)

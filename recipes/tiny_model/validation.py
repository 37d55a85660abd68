"""Cases by which a checkpoint is chosen: phrasings that are neither trained on nor among those of the evaluation.

Choosing by the evaluation itself would make its figures too good; values here are of the trained kinds, so that the
held-out values stay unseen too.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tiny_model import conversation, dialogues
from tiny_model.cases import Case
from tiny_model.grammar import expand
from tiny_model.skills import calculator, clock, memory, sql_lookup, units

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from tiny_model.conversation import Said

SPLIT = "validation"
CALLS = {
    "calculator": [
        "Kindly reckon {e} out",
        "Could {e} be done in your head?",
        "What shall I write for {e}?",
        "Let the machine have {e}",
        "{e} leads to what?",
        "The till shows {e}; the total please",
    ],
    "clock": [
        "How far has the clock gone in {p}?",
        "The hands of a clock in {p} point where?",
        "Time check for {p}",
        "I have to ring {p}, is it day there?",
        "Give {p} a look: what time?",
    ],
    "convert_units": [
        "Size of {v} {f} if counted as {t}?",
        "Bring {v} {f} over to {t}",
        "We counted {v} {f}, so tell us the {t}",
        "Would you mind turning {v} {f} to {t}?",
        "Counterpart in {t} of {v} {f}, please",
        "{v} {f} come out at how many {t}?",
        "Having {v} {f} here, I want them as {t}",
    ],
    "sql_lookup": [
        "Could the {t} include somebody with {v} for a {c}?",
        "Please narrow {t} down to {c} {v}",
        "I was told {v} is the {c}; who is that in {t}?",
        "Let me have {t} sorted out by {c} {v}",
        "Grab {t} rows, {c} set to {v}",
        "Have a look whether {t} know a {c} {v}",
        "Seeking {t} of {c} {v}",
        "Whatever {t} say on {c} {v}, I want it",
    ],
}
ANY_TOLD = [
    "Let me add this: my {a} is {v}",
    "You will want to know my {a}: {v}",
    "{v} it is, my {a}",
    "My {a} turned out to be {v}",
]
ANY_ASKED = [
    "My {a}, if you please",
    "You surely have my {a}",
    "What would you say my {a} is?",
    "Could my {a} be in your memory?",
    "Let me hear what my {a} is",
    "Out with my {a}",
]
KINDS = {
    "name": (
        ["Everybody shouts {v} when they want me", "You may put me down as {v}"],
        ["Who might I be?", "What is the name I gave?", "Any clue what I am called?"],
    ),
    "city": (
        ["My keys open a door in {v}", "Years ago I made {v} my home"],
        ["Where does my home stand?", "What city is mine?", "Where do I go home to?"],
    ),
    "job": (
        ["For a wage I am a {v}", "My boss needs me as a {v}"],
        ["What is it that I do at work?", "As what do I work?", "What job did I tell you I do?"],
    ),
    "age": (
        ["I am now {v} years of age"],
        ["What age did I reach?", "How many years do I have on me?"],
    ),
    "pet": (
        ["Our little {v0} comes when you shout {v1}"],
        ["Which name was our {v0} given?", "The {v0} at my place is called what?"],
    ),
    "hobby": (
        ["I could do {v} all day", "What I do for pleasure is {v}"],
        ["What do I do for pleasure?", "What could I do all day?", "What is it that I love to do?"],
    ),
}


def cases(rng: random.Random, count: int) -> Iterator[Case]:
    """Make `count` cases of each tool, and of recall from the conversation and from a memory line."""
    for _ in range(count):
        yield from _tools(rng)
        yield from _memory(rng)


def _tools(rng: random.Random) -> Iterator[Case]:
    there = dialogues.scene(rng, all_tools=True)
    for exchange in (
        calculator.exchange(rng, False, False),
        clock.exchange(rng, False, False),
        units.exchange(rng, False, False),
        sql_lookup.exchange(rng, False, False, there.tables),
    ):
        called = exchange.messages[1].call
        assert called is not None
        name, given = called
        if name == "clock":
            place, zone = rng.choice(list(clock.ZONES.items()))
            given, slots = {"timezone": zone}, {"p": place}
        elif name == "calculator":
            slots = {"e": given["expression"]}
        elif name == "convert_units":
            slots = {"v": str(given["value"]), "f": given["from_unit"], "t": given["to_unit"]}
        else:
            slots = {"t": given["table"], "c": given["column"], "v": given["value"]}
        asked = conversation.Said("user", expand(rng, rng.choice(CALLS[name]), slots))
        yield Case(f"call {name}", SPLIT, there.setting, [asked], exact=conversation.call_text(name, given))


def _memory(rng: random.Random) -> Iterator[Case]:
    there = dialogues.scene(rng)
    while there.remembered:
        there = dialogues.scene(rng)
    facts = {fact.key: fact for fact in (_fact(rng) for _ in range(rng.choice((1, 2, 3))))}
    told: list[Said] = [said for fact in facts.values() for said in memory.tell(rng, fact)]
    wanted = rng.choice(list(facts.values()))
    asked = conversation.Said("user", wanted.asked)
    yield Case("recall", SPLIT, there.setting, [*told, asked], contains=wanted.value)
    setting = conversation.Setting(memory.memory_lines(rng, list(facts.values())), there.setting.tools)
    yield Case("recall from memory line", SPLIT, setting, [asked], contains=wanted.value)


def _fact(rng: random.Random) -> memory.Fact:
    """A fact, told and asked for in phrasings of this file."""
    fact = memory.fact(rng, False, False)
    label = fact.key.partition(" ")[0]
    if label == "pet" or fact.key in KINDS:
        tellings, askings = KINDS[label]
        slots = {"v": fact.value, "v0": fact.key.partition(" ")[2], "v1": fact.value}
    else:
        tellings, askings, slots = ANY_TOLD, ANY_ASKED, {"a": fact.key, "v": fact.value}
    told = expand(rng, rng.choice(tellings), slots)
    return dataclasses.replace(fact, told=told, framed=told, asked=expand(rng, rng.choice(askings), slots))

"""Facts that the user told, or that a memory line of the system turn holds, and the honest answer where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiny_model import words
from tiny_model.conversation import Exchange, Said
from tiny_model.grammar import expand

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fact: how it is told, asked for and answered."""

    label: str
    value: Callable[[random.Random, bool], str]
    told: list[str]
    asked: list[str]
    answer: str
    told_held_out: list[str]
    asked_held_out: list[str]


def _list(known: list[str], unknown: list[str]) -> Callable[[random.Random, bool], str]:
    return lambda rng, held_out: words.pick(rng, known, unknown, held_out)


def _full_name(rng: random.Random, held_out: bool) -> str:
    first = words.name(rng, held_out)
    return f"{first} {rng.choice(words.SURNAMES)}" if rng.random() < 0.15 else first


KINDS = [
    Kind(
        "name",
        _full_name,
        [
            "My name is {v}",
            "My name is {v}",
            "My name is {v}",
            "I am {v}",
            "I'm {v}",
            "Call me {v}",
            "[You can|Please] call me {v}",
            "I am called {v}",
            "[Hi|Hello|Hey], I am {v}",
            "[Hi|Hello|Hey], my name is {v}",
            "[Hi|Hello], {v} here",
            "This is {v}",
            "My name's {v}",
            "People call me {v}",
            "The name is {v}",
            "They call me {v}",
            "Remember my name: {v}",
            "Remember that my name is {v}",
            "Let me introduce myself: I am {v}",
        ],
        [
            "What is my name?",
            "What is my name?",
            "What's my name?",
            "Who am I?",
            "Do you [know|remember] my name?",
            "What am I called?",
            "Tell me my name",
            "[Can|Could] you tell me my name?",
            "What did I say my name was?",
            "Say my name",
            "How am I called?",
            "What name did I give you?",
            "What do you call me?",
            "Please repeat my name",
            "Do you know who I am?",
            "Remind me of my name",
        ],
        "Your name is {v}.",
        ["I go by {v}", "Everyone knows me as {v}", "You are talking to {v}"],
        ["Do you still have my name?", "Which name did I tell you?", "By what name do I go?", "Who is talking to you?"],
    ),
    Kind(
        "city",
        _list(words.CITIES, words.HELD_OUT_CITIES),
        [
            "I live in {v}",
            "I live in {v}",
            "My home is in {v}",
            "I am living in {v}",
            "My city is {v}",
            "My home town is {v}",
            "I moved to {v}",
            "I have a flat in {v}",
            "My house is in {v}",
            "[These days|Now] I live in {v}",
            "Home is {v}",
            "Remember that I live in {v}",
        ],
        [
            "Where do I live?",
            "Where do I live?",
            "In which city do I live?",
            "Which city do I live in?",
            "What city do I live in?",
            "Where is my home?",
            "Do you [know|remember] where I live?",
            "Tell me where I live",
            "What is my city?",
            "Where did I say I live?",
            "Where is my house?",
        ],
        "You live in {v}.",
        ["I reside in {v}", "I settled down in {v}"],
        ["What town am I living in?", "Which place do I call home?", "Where am I based?"],
    ),
    Kind(
        "job",
        _list(words.JOBS, words.HELD_OUT_JOBS),
        [
            "I am a {v}",
            "I work as a {v}",
            "I work as a {v}",
            "My job is {v}",
            "I am a {v} by trade",
            "I earn my money as a {v}",
            "By day I am a {v}",
            "I became a {v}",
            "I'm a {v}",
            "My profession is {v}",
        ],
        [
            "What is my job?",
            "What do I do for work?",
            "What is my job?",
            "What do I work as?",
            "Do you [know|remember] my job?",
            "Which job do I have?",
            "What is my profession?",
            "How do I earn my money?",
            "Tell me my job",
            "What did I say my job was?",
        ],
        "You are a {v}.",
        ["I make my living as a {v}", "I am employed as a {v}"],
        ["What kind of work do I do?", "What am I by trade?", "How do I make my living?"],
    ),
    Kind(
        "age",
        lambda rng, _: str(rng.randint(18, 99)),
        [
            "I am {v} years old",
            "I am {v} years old",
            "My age is {v}",
            "I just turned {v}",
            "I am {v}",
            "I'm {v} years old",
        ],
        [
            "How old am I?",
            "How old am I?",
            "What is my age?",
            "Do you [know|remember] [how old I am|my age]?",
            "Tell me my age",
            "What age am I?",
        ],
        "You are {v} years old.",
        ["I have been alive for {v} years"],
        ["What did I say my age is?", "How many years old am I?"],
    ),
    Kind(
        "pet",
        lambda rng, held_out: f"{rng.choice(words.ANIMALS)} {words.name(rng, held_out)}",
        [
            "My {v0} is called {v1}",
            "My {v0} is named {v1}",
            "I have a {v0} called {v1}",
            "I have a {v0} named {v1}",
            "The name of my {v0} is {v1}",
            "My {v0}'s name is {v1}",
            "I own a {v0} called {v1}",
            "We have a {v0} and it is called {v1}",
        ],
        [
            "What is my {v0} called?",
            "What is my {v0}'s name?",
            "What is the name of my {v0}?",
            "What is my {v0} named?",
            "Do you [know|remember] the name of my {v0}?",
            "How is my {v0} called?",
            "Tell me the name of my {v0}",
            "What did I call my {v0}?",
        ],
        "Your {v0} is called {v1}.",
        ["At home a {v0} named {v1} waits for me", "I take care of a {v0}, {v1}"],
        ["Which name does my {v0} have?", "By what name does my {v0} go?"],
    ),
    Kind(
        "hobby",
        _list(words.HOBBIES, words.HELD_OUT_HOBBIES),
        [
            "My hobby is {v}",
            "I like {v}",
            "I love {v}",
            "In my free time I do {v}",
            "I enjoy {v}",
            "I am fond of {v}",
            "My great passion is {v}",
        ],
        [
            "What is my hobby?",
            "What do I like?",
            "What do I do in my free time?",
            "Do you [know|remember] my hobby?",
            "What do I enjoy?",
            "Tell me my hobby",
            "What am I fond of?",
        ],
        "You like {v}.",
        ["Nothing makes me happier than {v}", "I spend my weekends on {v}"],
        ["How do I spend my free time?", "Which hobby do I have?"],
    ),
]
# "My favourite <thing> is <value>", "the <thing> is <value>": any attribute, so that the relation is learnt and not the list.
ATTRIBUTES = """favourite color;favourite food;favourite animal;favourite city;favourite number;favourite book;favourite song;favourite movie
;favourite day;favourite drink;favourite season;favourite game;lucky number;phone number;room number;door code;password;email
;user name;account number;order number;ticket number;car;boss;best friend;brother;sister;mother;father;wife;husband;son;daughter
;teacher;doctor;neighbour;birthday;birth month;shoe size;team;project;company;school;street;language;country;nickname;code word;seat
;flight;hotel;server;deadline;budget;locker code;gate;bus line;desk;bike;meeting room;favorite color;favorite food;favorite book""".replace(
    "\n", ""
).split(";")
HELD_OUT_ATTRIBUTES = [
    "favourite flower",
    "favourite sport",
    "favourite singer",
    "badge number",
    "cousin",
    "landlord",
    "tutor",
    "train",
    "wifi key",
    "dentist",
    "middle name",
]
ANY_TOLD = [
    "My {a} is {v}",
    "My {a} is {v}",
    "My {a} is {v}",
    "Remember that my {a} is {v}",
    "Remember: my {a} is {v}",
    "Note that my {a} is {v}",
    "Please remember that my {a} is {v}",
    "My {a}: {v}",
    "I tell you that my {a} is {v}",
    "For later: my {a} is {v}",
    "Keep in mind that my {a} is {v}",
    "You should know that my {a} is {v}",
    "By now my {a} is {v}",
    "[OK|Well|So], my {a} is {v}",
    "{v} is my {a}",
    "{v} is my {a}",
    "As my {a} I have {v}",
    "Write down: my {a} is {v}",
    "[Just so you know|FYI], my {a} is {v}",
    "Do not forget that my {a} is {v}",
    "I have {v} as my {a}",
    "The name of my {a} is {v}",
]
ANY_TOLD_HELD_OUT = [
    "Make a note: my {a} is {v}",
    "Let it be known that my {a} is {v}",
    "When it comes to my {a}, it is {v}",
    "I want you to keep this: my {a} is {v}",
]
ANY_ASKED = [
    "What is my {a}?",
    "What is my {a}?",
    "What's my {a}?",
    "Do you [know|remember] my {a}?",
    "Tell me my {a}",
    "[Can|Could] you tell me my {a}?",
    "What did I say my {a} was?",
    "Which is my {a}?",
    "What was my {a}?",
    "What was my {a} again?",
    "Do you know what my {a} is?",
    "Say my {a}",
    "I forgot my {a}",
    "Remind me of my {a}",
    "I need my {a}",
    "My {a}?",
    "What [do|did] I have as my {a}?",
    "Repeat my {a}",
    "What is the name of my {a}?",
    "Please give me my {a}",
    "What {a} do I have?",
]
ANY_ASKED_HELD_OUT = [
    "Could you recall my {a}?",
    "What did I tell you about my {a}?",
    "Give me back my {a}",
    "I would like to hear my {a}",
    "Have you kept my {a}?",
]
NOTED = ["OK, I will remember that.", "Noted.", "Thank you, I will remember that."]
_WHERE = ["", "", "", "", "", "", "Hi. ", "Thanks. ", "OK. ", "Good. ", "By the way, ", "Now ", "And ", "So "]


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact, told and asked for in some words."""

    key: str
    told: str
    asked: str
    value: str
    answer: str
    unknown: str


def fact(rng: random.Random, held_out_phrasing: bool, held_out_values: bool) -> Fact:
    """Make a fact up."""
    if rng.random() < 0.55:
        kind = KINDS[0] if rng.random() < 0.35 else rng.choice(KINDS)
        value = kind.value(rng, held_out_values)
        first, _, rest = value.partition(" ")
        slots = {"v": value, "v0": first, "v1": rest}
        told = expand(rng, rng.choice(kind.told_held_out if held_out_phrasing else kind.told), slots)
        asked = expand(rng, rng.choice(kind.asked_held_out if held_out_phrasing else kind.asked), slots)
        if kind.label == "pet":
            unknown = f"You have not told me the name of your {first}."
            return Fact(f"pet {first}", told, asked, rest, expand(rng, kind.answer, slots), unknown)
        missing = {"city": "where you live", "age": "how old you are"}.get(kind.label, f"your {kind.label}")
        return Fact(kind.label, told, asked, value, expand(rng, kind.answer, slots), f"You have not told me {missing}.")
    attribute = rng.choice(HELD_OUT_ATTRIBUTES if held_out_values else ATTRIBUTES)
    if not held_out_values and rng.random() < 0.15:
        attribute = words.made_up(rng)
    value = _value(rng, attribute, held_out_values)
    slots = {"a": attribute, "v": value}
    told = expand(rng, rng.choice(ANY_TOLD_HELD_OUT if held_out_phrasing else ANY_TOLD), slots)
    told = told[0].upper() + told[1:] if told.startswith("my ") else told
    asked = expand(rng, rng.choice(ANY_ASKED_HELD_OUT if held_out_phrasing else ANY_ASKED), slots)
    return Fact(
        attribute, told, asked, value, f"Your {attribute} is {value}.", f"You have not told me your {attribute}."
    )


def _value(rng: random.Random, attribute: str, held_out: bool) -> str:
    last = attribute.rpartition(" ")[2]
    if rng.random() < 0.15:
        return words.code(rng) if rng.random() < 0.5 else words.made_up(rng)
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
    text = told.told + rng.choice((".", ".", ".", ".", "", "!"))
    if told.key == "name":
        reply = f"Nice to meet you, {told.value}." if rng.random() < 0.7 else f"Hello {told.value}, nice to meet you."
    else:
        reply = NOTED[0] if rng.random() < 0.7 else rng.choice(NOTED)
    return [Said("user", text), Said("assistant", reply)]


def ask(rng: random.Random, asked: Fact, known: bool, held_out_phrasing: bool = False) -> Exchange:
    """The turn in which a fact is asked for."""
    opener = "" if held_out_phrasing else rng.choice(_WHERE)
    body = asked.asked
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

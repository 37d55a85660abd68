"""What is asked about a picture, and what is right to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiny_vision.pictures import COLOURS, SHAPES

if TYPE_CHECKING:
    import random

    from tiny_vision.pictures import Scene, Thing

NUMBERS = ("One", "Two", "Three", "Four")
NO_PICTURE = "I see no picture."
_SHAPE = (
    "What shape is this?",
    "What shape is it?",
    "Which shape do you see?",
    "What is the shape?",
    "Name the shape.",
)
_COLOUR = (
    "What colour is it?", "What color is it?", "Which colour do you see?", "What colour is the {shape}?",
    "What color is the {shape}?", "Name the colour.",
)  # fmt: skip
_COUNT = ("How many {shape}s are there?", "How many {shape}s do you see?", "Count the {shape}s.", "How many are there?")
_WHAT = ("What is this?", "What do you see?", "Describe the picture.", "What is in the picture?")
_SIDE = ("What is on the {side}?", "What do you see on the {side}?", "Describe the {side}.")
_WHICH = ("What colour is the {shape}?", "What color is the {shape}?")
_TALK = ("Hello", "Hello!", "Hi", "Who are you?", "What can you do?", "Tell me a story.", "Help")
TALK_ANSWER = "Show me a picture and ask for shape, colour or number."


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and its answer."""

    skill: str
    question: str
    answer: str


def about(rng: random.Random, scene: Scene, count: int) -> list[Asked]:
    """Different questions about a scene."""
    things = scene.things
    if scene.alike:
        made = [_count(rng, things), _colour(rng, things[0]), _shape(rng, things), _what(rng, things)]
    else:
        made = [_side(rng, things, place) for place in (0, 1)]
        if things[0].shape != things[1].shape:
            made.append(_which(rng, rng.choice(things)))
    return rng.sample(made, min(count, len(made)))


def without_picture(rng: random.Random) -> Asked:
    """A question that needs a picture where there is none, or small talk."""
    if rng.random() < 0.25:
        return Asked("talk", rng.choice(_TALK), TALK_ANSWER)
    form = rng.choice((*_SHAPE, *_COLOUR, *_COUNT, *_WHAT, *_SIDE))
    return Asked("no picture", form.format(shape=rng.choice(SHAPES), side=rng.choice(("left", "right"))), NO_PICTURE)


def _shape(rng: random.Random, things: tuple[Thing, ...]) -> Asked:
    return Asked("shape", rng.choice(_SHAPE), f"A {things[0].shape}.")


def _colour(rng: random.Random, thing: Thing) -> Asked:
    return Asked("colour", rng.choice(_COLOUR).format(shape=thing.shape), f"{thing.colour.capitalize()}.")


def _count(rng: random.Random, things: tuple[Thing, ...]) -> Asked:
    return Asked("number", rng.choice(_COUNT).format(shape=things[0].shape), f"{NUMBERS[len(things) - 1]}.")


def _what(rng: random.Random, things: tuple[Thing, ...]) -> Asked:
    one, many = things[0], len(things) > 1
    said = f"{NUMBERS[len(things) - 1]} {one.colour} {one.shape}s." if many else _called(one)
    return Asked("description", rng.choice(_WHAT), said)


def _side(rng: random.Random, things: tuple[Thing, ...], place: int) -> Asked:
    form = rng.choice(_SIDE).format(side=("left", "right")[place])
    return Asked("side", form, _called(things[place]))


def _which(rng: random.Random, thing: Thing) -> Asked:
    return Asked("colour of which", rng.choice(_WHICH).format(shape=thing.shape), f"{thing.colour.capitalize()}.")


def _called(thing: Thing) -> str:
    return f"{'An' if thing.colour == 'orange' else 'A'} {thing.colour} {thing.shape}."


def corpus() -> list[str]:
    """Every question and answer, for the tokeniser."""
    asked = [
        form.format(shape=shape, side=side)
        for form in (*_SHAPE, *_COLOUR, *_COUNT, *_WHAT, *_SIDE, *_WHICH)
        for shape in SHAPES
        for side in ("left", "right")
    ]
    said = [f"{head} {colour} {shape}{tail}" for head in ("A", "An", *NUMBERS) for colour in COLOURS for shape in SHAPES
            for tail in (".", "s.")]  # fmt: skip
    words = [f"{colour.capitalize()}." for colour in COLOURS] + [f"A {shape}." for shape in SHAPES]
    return [*asked, *said, *words, *(f"{number}." for number in NUMBERS), *_TALK, TALK_ANSWER, NO_PICTURE] * 3

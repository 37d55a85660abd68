"""Synthetic pictures: shapes of one colour on a plain ground, drawn with their descriptions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    import random

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = {
    "red": (215, 35, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 210),
    "yellow": (240, 215, 45),
    "purple": (135, 50, 165),
    "orange": (245, 135, 30),
}
_GROUNDS = ((245, 245, 245), (190, 190, 190), (25, 25, 25))
_JITTER = 14
_LEAST_EDGE, _MOST_EDGE = 72, 128
_EDGE = 96
"""Places and sizes are counted in these units of the shorter edge."""


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape at a place."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows, left to right."""

    things: tuple[Thing, ...]

    @property
    def alike(self) -> bool:
        """Whether all things are of one kind."""
        return len({(thing.shape, thing.colour) for thing in self.things}) == 1


def held_out(shape: str, colour: str) -> bool:
    """Whether a combination is kept for the evaluation: one in five, each shape and each colour among them."""
    return (SHAPES.index(shape) + list(COLOURS).index(colour)) % 5 == 0


def kinds(*, unseen: bool) -> list[tuple[str, str]]:
    """Combinations of shape and colour that training has, or has not, seen."""
    return [(shape, colour) for shape in SHAPES for colour in COLOURS if held_out(shape, colour) == unseen]


def single(rng: random.Random, kind: tuple[str, str]) -> Scene:
    """One thing."""
    radius = rng.uniform(16, 38)
    low, high = radius + 4, _EDGE - radius - 4
    return Scene((Thing(*kind, rng.uniform(low, high), rng.uniform(low, high), radius),))


def several(rng: random.Random, kind: tuple[str, str], count: int) -> Scene:
    """Some things of one kind, one in each of the quarters chosen."""
    quarters = sorted(rng.sample(range(4), count))
    return Scene(tuple(_in_quarter(rng, kind, quarter) for quarter in quarters))


def pair(rng: random.Random, left: tuple[str, str], right: tuple[str, str]) -> Scene:
    """Two things side by side."""
    return Scene((_in_quarter(rng, left, rng.choice((0, 1))), _in_quarter(rng, right, rng.choice((2, 3)))))


def shown_at(scene: Scene, across: int) -> list[Thing | None]:
    """What each patch of the middle square shows, row by row, `across` patches in a row; None is ground."""
    edge = _EDGE / across
    centres = [(place + 0.5) * edge for place in range(across)]
    return [
        next((one for one in scene.things if max(abs(one.x - x), abs(one.y - y)) <= one.radius + 2), None)
        for y in centres
        for x in centres
    ]


def _in_quarter(rng: random.Random, kind: tuple[str, str], quarter: int) -> Thing:
    radius, half = rng.uniform(13, 20), _EDGE / 2
    low, high = radius + 2, half - radius - 2
    x, y = rng.uniform(low, high), rng.uniform(low, high)
    return Thing(*kind, x + half * (quarter // 2), y + half * (quarter % 2), radius)


def draw(rng: random.Random, scene: Scene) -> Image.Image:
    """The picture, of some size and not always square."""
    edge = rng.randint(_LEAST_EDGE, _MOST_EDGE)
    longer = edge + rng.choice((0, 0, rng.randint(0, edge // 4)))
    width, height = (edge, longer) if rng.random() < 0.5 else (longer, edge)
    scale = edge / _EDGE
    image = Image.new("RGB", (width, height), _varied(rng, rng.choice(_GROUNDS)))
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        # What is outside the middle square is cut off before a model sees it.
        x, y = thing.x * scale + (width - edge) / 2, thing.y * scale + (height - edge) / 2
        _shape(pen, thing.shape, x, y, thing.radius * scale, _varied(rng, COLOURS[thing.colour]))
    return image


def _shape(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, fill: tuple[int, ...]) -> None:
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "ring":
        pen.ellipse(box, outline=fill, width=max(2, round(radius * 0.38)))
    elif shape == "square":
        side = radius * 0.88
        pen.rectangle((x - side, y - side, x + side, y + side), fill=fill)
    elif shape == "triangle":
        turns = (-math.pi / 2 + 2 * math.pi * corner / 3 for corner in range(3))
        pen.polygon([(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns], fill=fill)
    else:
        arm = radius * 0.32
        pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=fill)
        pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=fill)


def _varied(rng: random.Random, colour: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(255, max(0, part + rng.randint(-_JITTER, _JITTER))) for part in colour)

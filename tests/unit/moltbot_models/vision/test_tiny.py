"""The tiny vision model that is shipped says what a picture shows."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import moltbot_models
from moltbot_models.engine import EngineConfig, TextEngine
from moltbot_models.generation import Message
from moltbot_testkit.conversations import ask, image, message

TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny_vision"


@pytest.fixture(scope="module")
def engine():
    engine = TextEngine.load(TINY, EngineConfig(kv_cache_bytes=8 << 20))
    yield engine
    engine.close()


def picture(shape, colour, *places, kind="PNG"):
    drawn = Image.new("RGB", (120, 120), (245, 245, 245))
    pen = ImageDraw.Draw(drawn)
    for x, y in places or [(60, 60)]:
        box = (x - 22, y - 22, x + 22, y + 22)
        if shape == "circle":
            pen.ellipse(box, fill=colour)
        else:
            pen.rectangle(box, fill=colour)
    file = io.BytesIO()
    drawn.save(file, kind)
    return image(file.getvalue())


@pytest.mark.parametrize(
    ("shown", "question", "right"),
    [
        (picture("circle", "red"), "What shape is this?", "A circle."),
        (picture("square", "red"), "What shape is this?", "A square."),
        (picture("circle", "blue", kind="JPEG"), "What colour is it?", "Blue."),
        (picture("circle", "green", kind="WEBP"), "What color is it?", "Green."),
        (picture("square", "blue", (30, 30), (90, 90)), "How many squares are there?", "Two."),
        (picture("square", "blue", (30, 30), (90, 90), (90, 30)), "How many squares are there?", "Three."),
    ],
)
def test_it_answers_what_is_shown(shown, question, right, engine):
    assert ask(engine, [message("user", shown, question)], temperature=0.0, max_tokens=30).wait().text == right


def test_it_says_that_there_is_no_picture(engine):
    said = ask(engine, [Message("user", "What colour is it?")], temperature=0.0, max_tokens=30).wait().text
    assert said == "I see no picture."

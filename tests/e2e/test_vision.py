"""A picture is shown to a model that sees, through every service, in both shapes; it answers what is on it."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path

import pytest
from moltbot.gateway.v1 import gateway_pb2 as pb
from moltbot.gateway.v1 import gateway_pb2_grpc
from PIL import Image, ImageDraw

import moltbot_models

SEES = Path(moltbot_models.__file__).parent / "shipped" / "tiny_vision"
CHAT = "/v1/chat/completions"
pytestmark = pytest.mark.timeout(180)


def picture(shape: str, colour: str, kind: str = "PNG") -> bytes:
    image = Image.new("RGB", (160, 120), (245, 245, 245))
    pen, box = ImageDraw.Draw(image), (50, 30, 110, 90)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    else:
        pen.rectangle(box, fill=colour)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def look(question: str, *files: bytes) -> list[dict]:
    url = "data:image/{};base64,{}"
    kinds = ["png" if file.startswith(b"\x89PNG") else "jpeg" for file in files]
    parts = [
        {"type": "image_url", "image_url": {"url": url.format(kind, base64.b64encode(file).decode())}}
        for kind, file in zip(kinds, files, strict=True)
    ]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


@pytest.fixture(scope="module")
def seeing(world):
    """The mesh with the tiny vision model, added by one command."""
    added = world.mesh.json("model", "add", str(SEES), "--id", "tiny-vision")
    assert added["state"] == "serving"
    for _ in range(200):
        if world.http().post(CHAT, json={"model": "tiny-vision", "messages": look("What colour is it?")}).is_success:
            break
        time.sleep(0.05)
    yield world
    world.mesh.command("model", "remove", "tiny-vision")


def asked(world, messages, model="tiny-vision") -> str:
    answer = world.client().chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=40)
    return answer.choices[0].message.content


def test_the_command_has_seen_that_it_takes_images(seeing):
    (row,) = [row for row in seeing.mesh.json("model", "list") if row["id"] == "tiny-vision"]
    assert row["input_modalities"] == ["text", "image"]
    assert seeing.mesh.json("model", "show", "tiny-vision")["input_modalities"] == ["text", "image"]


def test_one_picture_gets_one_word_and_another_another(seeing):
    assert asked(seeing, look("What colour is it?", picture("circle", "red"))) == "Red."
    assert asked(seeing, look("What colour is it?", picture("circle", "blue", "JPEG"))) == "Blue."
    assert asked(seeing, look("What shape is this?", picture("circle", "red"))) == "A circle."
    assert asked(seeing, look("What shape is this?", picture("square", "red"))) == "A square."


def test_without_a_picture_it_says_so(seeing):
    assert asked(seeing, [{"role": "user", "content": "What colour is it?"}]) == "I see no picture."


def test_a_stub_is_answered_piece_by_piece(seeing):
    parts = [
        pb.Part(image=pb.Image(data=picture("square", "green"), media_type="image/png")),
        pb.Part(text="What colour is it?"),
    ]
    request = pb.ChatRequest(model="tiny-vision", messages=[pb.Message(role=pb.ROLE_USER, parts=parts)])
    request.sampling.temperature = 0
    with seeing.grpc() as (channel, key):
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        whole = stub.Chat(request, metadata=key, timeout=60)
    assert whole.message.content == "Green."
    assert whole.usage.prompt_tokens > 36


def test_it_is_chosen_for_a_picture_where_the_client_names_no_model(seeing):
    answer = seeing.http().post(
        CHAT, json={"messages": look("What colour is it?", picture("circle", "red")), "model": "auto"}
    )
    assert answer.status_code == 200, answer.text


def test_a_picture_that_cannot_be_read_is_the_clients_mistake(seeing):
    broken = picture("circle", "red")[:60]
    answer = seeing.http().post(CHAT, json={"model": "tiny-vision", "messages": look("What?", broken)})
    assert answer.status_code == 400
    assert "not a PNG, JPEG or WebP image that can be read" in answer.json()["error"]["message"]

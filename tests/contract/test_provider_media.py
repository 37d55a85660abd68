"""Images and sounds at each upstream protocol: passed on whole by the one that has a place for them, else refused."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from moltbot_mesh.errors import InvalidArgument
from moltbot_models.generation import GenerationRequest, Media, Message
from moltbot_models.manifest import Manifest
from moltbot_models.providers import generic_http, openai, websocket
from moltbot_models.providers.base import UpstreamContext
from moltbot_models.providers.engines import EngineHost
from moltbot_testkit.upstreams import FakeOpenAI
from moltbot_testkit.websocket_upstream import FakeWebSocket

if TYPE_CHECKING:
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
WAV, MP3 = b"RIFF\x32\0\0\0WAVEfmt " + bytes(38), b"ID3\x04" + bytes(50)
LOOK = Message(
    "user",
    "Look: and hear",
    parts=("Look:", Media("image", PNG, "image/png", "low"), Media("audio", WAV, "audio/wav"), " and hear"),
)


async def seen(tmp_path: Path, *messages: Message, stream: bool = True) -> list:
    """The messages as an upstream of the OpenAI protocol got them."""
    fake = FakeOpenAI()
    async with fake.serve() as endpoint:
        upstream = openai.open_upstream(
            Manifest("m", "text-generation", "openai", endpoint), UpstreamContext(tmp_path, {}, EngineHost())
        )
        request = GenerationRequest("m", messages)
        text = "".join([d.text async for part in upstream.generate(request, stream=stream) for d in part])
        await upstream.aclose()
    assert text == "Hello there."
    return list(fake.seen[0].body["messages"])


@pytest.mark.parametrize("stream", [True, False])
async def test_openai_gets_texts_images_and_sounds_in_their_order(tmp_path: Path, socket_enabled: None, stream: bool):
    heard = Message("user", "", parts=(Media("audio", MP3, "audio/mpeg"), Media("image", PNG, "image/png")))
    first, second, third = await seen(tmp_path, LOOK, heard, Message("user", "plain"), stream=stream)

    image = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert first["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": image, "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(WAV).decode(), "format": "wav"}},
        {"type": "text", "text": " and hear"},
    ]
    assert second["content"] == [
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(MP3).decode(), "format": "mp3"}},
        {"type": "image_url", "image_url": {"url": image}},
    ]
    assert third == {"role": "user", "content": "plain"}


@pytest.mark.parametrize("tail", [0, 1, 2])
async def test_a_large_image_arrives_whole(tmp_path: Path, socket_enabled: None, tail: int):
    data = PNG + bytes(range(256)) * 8192 + bytes(tail)
    (message,) = await seen(tmp_path, Message("user", "", parts=(Media("image", data, "image/png"),)))

    head, _, encoded = message["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(encoded, validate=True) == data


@pytest.mark.parametrize(
    ("factory", "fake_type", "suffix", "provider"),
    [
        (generic_http.open_upstream, FakeOpenAI, "/completions", "generic_http"),
        (generic_http.open_upstream, FakeOpenAI, "/chat/completions", "generic_http"),
        (websocket.open_upstream, FakeWebSocket, "", "websocket"),
    ],
)
async def test_a_protocol_without_a_place_for_media_refuses_them_by_name_and_sends_nothing(
    tmp_path: Path, socket_enabled: None, factory, fake_type, suffix: str, provider: str
):
    fake = fake_type()
    async with fake.serve() as endpoint:
        upstream = factory(
            Manifest("m", "text-generation", provider, endpoint + suffix), UpstreamContext(tmp_path, {}, EngineHost())
        )
        request = GenerationRequest("m", (LOOK,))
        with pytest.raises(InvalidArgument, match=f"the protocol {provider} carries text alone"):
            await anext(upstream.generate(request))
        refused = fake.requests
        plain = replace(request, messages=(replace(LOOK, parts=()),))
        text = "".join([d.text async for part in upstream.generate(plain) for d in part])
        await upstream.aclose()
    assert (refused, fake.requests, text) == (0, 1, "Hello there.")

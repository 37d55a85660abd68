"""Images and sounds in a conversation: what is taken, what is refused, by both doors with the same words."""

from __future__ import annotations

import base64
import json

import pytest
from moltbot.gateway.v1 import gateway_pb2 as pb

from moltbot_gateway import openai_request, typed_request
from moltbot_gateway.media_check import MediaLimits
from moltbot_mesh.errors import InvalidArgument
from moltbot_models.generation import Media, Message

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(50))
JPEG = b"\xff\xd8\xff\xe0" + bytes(50)
WEBP = b"RIFF\x32\0\0\0WEBPVP8 " + bytes(38)
WAV = b"RIFF\x32\0\0\0WAVEfmt " + bytes(38)
MP3 = b"ID3\x04" + bytes(50)
MP3_FRAME = b"\xff\xfb\x90\x00" + bytes(50)
SMALL = MediaLimits(image_bytes=100, audio_bytes=60, parts=2)


def url(data: bytes, media_type: str = "image/png") -> dict:
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{media_type};base64,{base64.b64encode(data).decode()}"},
    }


def sound(data: bytes, form: str = "wav") -> dict:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": form}}


def chat(*parts: object, role: str = "user", limits: MediaLimits = SMALL) -> Message:
    body = {"messages": [{"role": role, "content": list(parts)}]}
    return openai_request.chat(json.dumps(body).encode(), limits)[0].messages[0]


def refused(*parts: object, **rest) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as raised:
        chat(*parts, **rest)
    return raised.value


def test_texts_and_media_keep_their_order():
    parts = ({"type": "text", "text": "Is "}, url(PNG), {"type": "text", "text": "like this?"}, sound(WAV))
    message = chat(*parts)
    assert message.content == "Is like this?"
    assert message.parts == ("Is ", Media("image", PNG, "image/png"), "like this?", Media("audio", WAV, "audio/wav"))


def test_a_message_of_texts_alone_has_no_parts():
    assert chat({"type": "text", "text": "a"}, {"type": "text", "text": "b"}) == Message("user", "ab")


@pytest.mark.parametrize(
    ("part", "kind", "media_type"),
    [
        (url(PNG), "image", "image/png"),
        (url(PNG, "IMAGE/PNG"), "image", "image/png"),
        (url(JPEG, "image/jpeg"), "image", "image/jpeg"),
        (url(JPEG, "image/jpg"), "image", "image/jpeg"),
        (url(WEBP, "image/webp"), "image", "image/webp"),
        (sound(WAV), "audio", "audio/wav"),
        (sound(MP3, "mp3"), "audio", "audio/mpeg"),
        (sound(MP3_FRAME, "mp3"), "audio", "audio/mpeg"),
    ],
)
def test_these_types_are_taken(part, kind, media_type):
    (media,) = chat(part).parts
    assert (media.kind, media.media_type) == (kind, media_type)


@pytest.mark.parametrize("detail", ["auto", "low", "high"])
def test_how_closely_an_image_is_to_be_looked_at_is_kept(detail):
    part = url(PNG)
    part["image_url"]["detail"] = detail
    assert chat(part).parts[0].detail == detail


def test_what_the_bytes_are_never_stands_in_a_text_for_people():
    assert "PNG" not in repr(chat(url(PNG)))


@pytest.mark.parametrize(
    ("part", "field", "said"),
    [
        ({"type": "image_url", "image_url": {"url": "https://a.example/i.png?key=s3cret"}}, "image_url.url", "fetches"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "image_url.url", "fetches nothing"),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png,abc"}},
            "image_url.url",
            "no data URL in base64",
        ),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}, "image_url.url", "no known format"),
        ({"type": "image_url"}, "image_url", "is missing"),
        ({"type": "input_audio"}, "input_audio", "is missing"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "flac"}}, "input_audio.format", "wav or mp3"),
        ({"type": "input_image", "image_url": None}, "type", "of another API"),
        ({"type": "file"}, "type", "no model here reads documents"),
        ({"type": "video_url"}, "type", "send text, image_url or input_audio"),
        (url(PNG, "image/gif"), "image_url.url", "is no image type that is taken"),
        (url(WAV, "audio/wav"), "image_url.url", "is no image type that is taken"),
        (url(JPEG), "image_url.url", "said to be image/png, but its bytes are those of image/jpeg"),
        (url(WAV, "image/webp"), "image_url.url", "its bytes are those of audio/wav"),
        (url(b"<svg onload=alert(1)>"), "image_url.url", "its bytes are those of no known format"),
        (sound(MP3), "input_audio.data", "said to be audio/wav, but its bytes are those of audio/mpeg"),
        (sound(WEBP), "input_audio.data", "its bytes are those of image/webp"),
    ],
)
def test_what_is_not_taken_is_refused_by_its_place(part, field, said):
    error = refused({"type": "text", "text": "x"}, part)
    assert error.violations[0].field == f"messages[0].content[1].{field}"
    assert said in error.message
    assert "s3cret" not in error.message


def test_a_detail_that_nobody_knows_is_refused():
    part = url(PNG)
    part["image_url"]["detail"] = "ultra"
    assert "auto, low or high" in refused(part).message


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text[:20] + "\n" + text[20:],
        lambda text: text[:20] + "=" + text[21:],
        lambda text: "iVBO" + "====" + text[8:],
        lambda text: text[:20] + "-_" + text[22:],
        lambda text: text[:20] + "é" + text[21:],
        lambda text: text + "====",
        lambda text: text + "A===",
    ],
)
def test_base64_is_strict(spoil):
    encoded = base64.b64encode(PNG).decode()
    assert len(encoded) % 4 == 0
    bad = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{spoil(encoded)}"}}
    assert "not base64" in refused(bad).message


@pytest.mark.parametrize("tail", [0, 1, 2])
def test_a_large_file_is_decoded_in_pieces_to_the_same_bytes(tail):
    data = PNG + bytes(700_000 + tail)
    assert chat(url(data), limits=MediaLimits()).parts[0].data == data


@pytest.mark.parametrize(
    ("part", "limit"), [(url(PNG + bytes(43)), "gateway.max_image_bytes"), (sound(WAV + bytes(7)), "max_audio_bytes")]
)
def test_one_byte_too_many_is_refused_as_too_large(part, limit):
    error = refused(part)
    assert (error.reason, error.violations[0].field[:22]) == ("REQUEST_TOO_LARGE", "messages[0].content[0]")
    assert limit in error.message


def test_as_many_bytes_as_are_allowed_are_taken():
    image, audio = chat(url(PNG + bytes(42)), sound(WAV + bytes(6))).parts
    assert (len(image.data), len(audio.data)) == (100, 60)


def test_media_of_all_messages_count_together():
    said = [{"role": "user", "content": [url(PNG)]}, {"role": "user", "content": [url(PNG), sound(WAV)]}]
    with pytest.raises(InvalidArgument) as raised:
        openai_request.chat(json.dumps({"messages": said}).encode(), SMALL)
    assert raised.value.violations[0].field == "messages[1].content[1]"
    assert "gateway.max_media_parts" in raised.value.message


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_who_instructs_or_answers_says_it_in_text(role):
    assert f"role {role} is text alone" in refused(url(PNG), role=role).message


def test_a_tools_result_may_be_an_image():
    assert chat(url(PNG), role="tool").parts == (Media("image", PNG, "image/png"),)


def typed(*parts: pb.Part, role=pb.ROLE_USER, content: str = "") -> Message:
    request = pb.ChatRequest(messages=[pb.Message(role=role, content=content, parts=parts)])
    return typed_request.chat(request, SMALL).messages[0]


def image(data: bytes, media_type: str = "image/png", detail: str = "") -> pb.Part:
    return pb.Part(image=pb.Image(data=data, media_type=media_type, detail=detail))


def test_the_typed_door_takes_the_same():
    message = typed(
        pb.Part(text="Is "),
        image(PNG, detail="low"),
        pb.Part(text="like this?"),
        pb.Part(audio=pb.Audio(data=MP3, media_type="audio/mp3")),
    )
    assert message.content == "Is like this?"
    assert message.parts == (
        "Is ",
        Media("image", PNG, "image/png", "low"),
        "like this?",
        Media("audio", MP3, "audio/mpeg"),
    )
    assert typed(pb.Part(text="a"), pb.Part(text="b")) == Message("user", "ab")


@pytest.mark.parametrize(
    ("parts", "rest", "field", "said"),
    [
        ([image(JPEG)], {}, "messages[0].parts[0].image", "said to be image/png"),
        ([image(PNG, "image/gif")], {}, "messages[0].parts[0].image", "no image type"),
        ([image(PNG + bytes(43))], {}, "messages[0].parts[0].image", "max_image_bytes"),
        ([image(PNG)], {"role": pb.ROLE_SYSTEM}, "messages[0].parts[0]", "text alone"),
        ([image(PNG)] * 3, {}, "messages[0].parts[2]", "max_media_parts"),
        ([pb.Part()], {}, "messages[0].parts[0]", "is empty"),
        ([image(PNG)], {"content": "x"}, "messages[0].parts", "send one of them"),
    ],
)
def test_the_typed_door_refuses_the_same(parts, rest, field, said):
    with pytest.raises(InvalidArgument) as raised:
        typed(*parts, **rest)
    assert raised.value.violations[0].field == field
    assert said in raised.value.message

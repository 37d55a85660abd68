"""OpenAI's content parts of a message: texts, images as `data:` URLs, sounds as base64.

A URL that would have to be fetched is refused, always: the mesh would reach where its sender cannot, into the
operator's own network, and what an audited request asked would depend on what a stranger's server said that day.

Source: https://platform.openai.com/docs/api-reference/chat/create (`image_url`, `input_audio`); RFC 2397 (data URLs);
RFC 4648, section 4 (base64).
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from moltbot_gateway.json_body import refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_gateway.media_check import MediaCheck
    from moltbot_models.generation import Media, Role

_Short = Annotated[str, Meta(max_length=256)]
_TEXTS = frozenset({"text", "input_text", "output_text", "refusal"})
_DATA_URL = re.compile(r"data:([a-z]{1,32}/[a-z0-9.+-]{1,64});base64,", re.IGNORECASE)
_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}
_DECODED_TOGETHER = 1 << 18
"""Characters, a multiple of 4: between two pieces other threads get their turn."""
_ELSEWHERE = {
    "input_image": 'is of another API; send {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}',
    "audio_url": 'is not offered; send {"type": "input_audio", "input_audio": {"data": "…", "format": "wav"}}',
    "file": "is not offered: no model here reads documents; send their text, or their pages as images",
    "input_file": "is not offered: no model here reads documents; send their text, or their pages as images",
}


class _ImageUrl(Struct):
    url: str
    detail: _Short | None = None


class _InputAudio(Struct):
    data: str
    format: _Short


class ContentPart(Struct):
    """One part, as it stands in the body."""

    type: _Short
    text: str = ""
    image_url: _ImageUrl | None = None
    input_audio: _InputAudio | None = None


def read_parts(parts: Sequence[ContentPart], role: Role, at: str, check: MediaCheck) -> tuple[str | Media, ...]:
    """The texts and media of a message.

    Args:
        parts: Of the message.
        role: Whose it is.
        at: Where they stand: `messages[0].content`.
        check: Of the request.

    Raises:
        InvalidArgument: A part cannot be taken; the violation names it.
    """
    return tuple(_read(part, role, f"{at}[{place}]", check) for place, part in enumerate(parts))


def _read(part: ContentPart, role: Role, at: str, check: MediaCheck) -> str | Media:
    if part.type in _TEXTS:
        return part.text
    if part.type == "image_url":
        if part.image_url is None:
            raise refused(f"{at}.image_url", "is missing; it holds url")
        return _image(part.image_url, role, at, check)
    if part.type == "input_audio":
        if part.input_audio is None:
            raise refused(f"{at}.input_audio", "is missing; it holds data and format")
        return _audio(part.input_audio, role, at, check)
    what = _ELSEWHERE.get(part.type, "is not offered; send text, image_url or input_audio")
    raise refused(f"{at}.type", f"{part.type!r} {what}")


def _image(image: _ImageUrl, role: Role, at: str, check: MediaCheck) -> Media:
    check.admit("image", role, at)
    at = f"{at}.image_url.url"
    head = _DATA_URL.match(image.url)
    if head is None:
        if image.url[:5].lower() == "data:":
            raise refused(at, "is no data URL in base64; send data:image/png;base64,… (or image/jpeg, image/webp)")
        raise refused(
            at,
            "the mesh fetches nothing: a URL in a request would lead it into networks that its sender cannot reach, "
            "and to content that can change; send the image itself, as data:image/png;base64,…",
        )
    check.fits("image", _decoded_bytes(image.url, head.end()), at)
    return check.take("image", _decoded(image.url, head.end(), at), head.group(1), image.detail or "", at)


def _audio(audio: _InputAudio, role: Role, at: str, check: MediaCheck) -> Media:
    check.admit("audio", role, at)
    media_type = _AUDIO_TYPES.get(audio.format)
    if media_type is None:
        raise refused(f"{at}.input_audio.format", f"{audio.format!r} is not taken; send wav or mp3")
    at = f"{at}.input_audio.data"
    check.fits("audio", _decoded_bytes(audio.data, 0), at)
    return check.take("audio", _decoded(audio.data, 0, at), media_type, "", at)


def _decoded_bytes(text: str, begin: int) -> int:
    """How many bytes base64 stands for."""
    padding = 2 if text.endswith("==") else 1 if text.endswith("=") else 0
    return (len(text) - begin) // 4 * 3 - padding


def _decoded(text: str, begin: int, at: str) -> bytes:
    whole = (len(text) - begin) % 4 == 0 and text.find("=", begin, -2) < 0
    try:
        if whole:
            pieces = range(begin, len(text), _DECODED_TOGETHER)
            return b"".join(binascii.a2b_base64(text[i : i + _DECODED_TOGETHER], strict_mode=True) for i in pieces)
    except ValueError:
        pass
    raise refused(at, "not base64: A-Z a-z 0-9 + / with its padding, and no line breaks")

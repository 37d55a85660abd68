"""What stands for media where their bytes do not: a word in a session, a commitment in a record, a guess of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_models.generation import Media

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moltbot_models.generation import Message

_LOW_TOKENS, _IMAGE_TOKENS = 85, 255
"""Of an image at detail low, and the least at detail high: a tile more. Source: OpenAI, "Images and vision", costs."""
_TOKENS_PER_S = 10
_BYTES_PER_S = {"audio/wav": 32_000, "audio/mpeg": 16_000}
"""WAV with 16 bits at 16 kHz, one channel; MP3 at 128 kbit/s."""


@dataclass(frozen=True, slots=True)
class MediaNote:
    """One image or sound of a request, as its record names it."""

    media_type: str
    size_bytes: int
    commitment: bytes
    """Of its bytes, under the request's key."""

    def __str__(self) -> str:
        return f"{self.media_type} {self.size_bytes} {self.commitment.hex()}"


def media_of(messages: Iterable[Message]) -> tuple[Media, ...]:
    """The images and sounds of a conversation, in their order."""
    return tuple(part for message in messages for part in message.parts if isinstance(part, Media))


def remembered(message: Message) -> str:
    """A message as a session keeps it: where an image was, `[image]`."""
    if not message.parts:
        return message.content
    pieces = (part if isinstance(part, str) else f"\n[{part.kind}]\n" for part in message.parts)
    return "".join(pieces).strip("\n")


def media_tokens(messages: Iterable[Message]) -> int:
    """Tokens that a conversation's media take until an upstream has counted.

    A guess on the low side: what was used beyond it is charged afterwards, and what was not is not given back.
    """
    return sum(_tokens(media) for media in media_of(messages))


def _tokens(media: Media) -> int:
    if media.kind == "image":
        return _LOW_TOKENS if media.detail == "low" else _IMAGE_TOKENS
    return 1 + len(media.data) * _TOKENS_PER_S // _BYTES_PER_S.get(media.media_type, 16_000)

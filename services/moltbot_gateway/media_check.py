"""Which images and sounds are taken: how many, how large, of whom, and only if their bytes are what they claim to be.

Nothing is decoded here: a file's first bytes tell its format, the rest is the model's affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_gateway.json_body import refused
from moltbot_mesh.errors import FieldViolation, InvalidArgument
from moltbot_models.generation import Media

if TYPE_CHECKING:
    from moltbot_models.generation import MediaKind, Role

_KNOWN: dict[MediaKind, dict[str, str]] = {
    "image": {
        "image/png": "image/png",
        "image/jpeg": "image/jpeg",
        "image/jpg": "image/jpeg",
        "image/webp": "image/webp",
    },
    "audio": {
        "audio/wav": "audio/wav",
        "audio/x-wav": "audio/wav",
        "audio/wave": "audio/wav",
        "audio/mpeg": "audio/mpeg",
        "audio/mp3": "audio/mpeg",
    },
}
"""Media types and the other names that clients have for them."""
_SPEAKERS: frozenset[Role] = frozenset({"user", "tool"})
_DETAILS = frozenset({"", "auto", "low", "high"})


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What one request may carry."""

    image_bytes: int = 10 << 20
    """Of one image, as its file."""
    audio_bytes: int = 10 << 20
    """Of one sound, as its file."""
    parts: int = 16
    """Images and sounds together."""


class MediaCheck:
    """Checks the media of one request, in their order.

    Args:
        limits: What the request may carry.
    """

    def __init__(self, limits: MediaLimits) -> None:
        self._limits = limits
        self._taken = 0

    def admit(self, kind: MediaKind, role: Role, at: str) -> None:
        """Count one more, before its bytes are looked at.

        Args:
            kind: What it is.
            role: Whose message it stands in.
            at: Where it stands, as `messages[0].content[1]`.

        Raises:
            InvalidArgument: It may not stand there, or there are too many.
        """
        if role not in _SPEAKERS:
            raise refused(at, f"a message of role {role} is text alone; put the {kind} into one of role user or tool")
        self._taken += 1
        if self._taken > self._limits.parts:
            raise refused(
                at, f"more than {self._limits.parts} images and sounds; a request has no more (gateway.max_media_parts)"
            )

    def fits(self, kind: MediaKind, size_bytes: int, at: str) -> None:
        """Refuse what is too large.

        Raises:
            InvalidArgument: It is.
        """
        limit = self._limits.image_bytes if kind == "image" else self._limits.audio_bytes
        if size_bytes > limit:
            said = f"the {kind} has {size_bytes} bytes; at most {limit} are taken (gateway.max_{kind}_bytes)"
            raise InvalidArgument(f"{at}: {said}", reason="REQUEST_TOO_LARGE", violations=(FieldViolation(at, said),))

    def take(self, kind: MediaKind, data: bytes, media_type: str, detail: str, at: str) -> Media:
        """What was admitted, if it is what it is said to be.

        Args:
            kind: What it is to be.
            data: The file.
            media_type: What the client says it is.
            detail: How closely an image is to be looked at.
            at: Where it stands.

        Raises:
            InvalidArgument: Its type is not taken, it is too large, or its bytes are of another type.
        """
        known = _KNOWN[kind].get(media_type.lower())
        if known is None:
            types = ", ".join(sorted(set(_KNOWN[kind].values())))
            raise refused(at, f"{media_type[:64]!r} is no {kind} type that is taken; these are: {types}")
        if detail not in _DETAILS:
            raise refused(at, "detail must be auto, low or high")
        self.fits(kind, len(data), at)
        found = _format_of(data)
        if found != known:
            raise refused(at, f"it is said to be {known}, but its bytes are those of {found or 'no known format'}")
        return Media(kind, data, known, detail)


def content_of(parts: tuple[str | Media, ...]) -> tuple[str, tuple[str | Media, ...]]:
    """A message's text, and its parts unless they are text alone."""
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts), () if len(texts) == len(parts) else parts


def _format_of(data: bytes) -> str:
    """The media type that a file's first bytes tell; empty if none that is taken.

    Source: PNG, section 5.2; JPEG (ITU-T T.81), annex B; RIFF containers of WebP and WAVE; MPEG audio (ISO 11172-3),
    2.4.1.3, whose layer III is MP3, with an ID3 tag before it or not.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"RIFF"):
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(data[8:12], "")
    if data.startswith(b"ID3") or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2):
        return "audio/mpeg"
    return ""

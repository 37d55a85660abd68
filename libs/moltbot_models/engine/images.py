"""The images of a request: where they stand in it, and where their tokens stand in the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.insets import Inset
from moltbot_models.generation import Media

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_models.engine.prompting import Prompt
    from moltbot_models.generation import Message
    from moltbot_models.vision.encoder import VisionEncoder
    from moltbot_models.vision.picture import Picture
    from moltbot_models.vision.shape import VisionShape


MAX_ROWS_BYTES = 256 << 20
"""Of the images of all requests under way; a single request may have more, which its context bounds."""


@dataclass(frozen=True, slots=True)
class Eyes:
    """What a model sees with."""

    shape: VisionShape | None = None
    """None for a model of text alone."""
    encoder: VisionEncoder | None = None
    """None if images are encoded elsewhere."""

    def bytes_of(self, images: int) -> int:
        """What the rows of so many images take."""
        return 0 if self.shape is None else images * self.shape.tokens * self.shape.text_hidden * 4


def images_of(messages: Sequence[Message], *, taken: bool) -> list[tuple[str, bytes]]:
    """Return each image as its place (`messages[0].parts[1]`) and its file, in their order.

    Args:
        messages: The conversation.
        taken: Whether the model takes images.

    Raises:
        EngineError: `INVALID_ARGUMENT` naming the first part that the model does not take.
    """
    found: list[tuple[str, bytes]] = []
    for number, message in enumerate(messages):
        for place, part in enumerate(message.parts):
            if not isinstance(part, Media):
                continue
            where = f"messages[{number}].parts[{place}]"
            if part.kind != "image" or not taken:
                takes = "text and images" if taken else "text alone"
                given = "images" if part.kind == "image" else part.kind
                raise EngineError("INVALID_ARGUMENT", f"{where}: this model takes {takes}, not {given}")
            found.append((where, part.data))
    return found


def spread(tokens: Sequence[int], image_token: int, width: int) -> tuple[list[int], list[int]]:
    """Make `width` tokens of each image token, as transformers' processors do; return all, and where images begin."""
    out: list[int] = []
    begins: list[int] = []
    for token in tokens:
        if token == image_token:
            begins.append(len(out))
            out += [token] * width
        else:
            out.append(token)
    return out, begins


def insets_of(prompt: Prompt, pictures: tuple[Picture, ...] | None, eyes: Eyes) -> tuple[Inset, ...]:
    """Return the images' rows at their places; images are encoded here unless their pictures are given.

    Raises:
        EngineError: `INVALID_ARGUMENT` for an image that is refused, or pictures that do not fit; `ENGINE_FAILED`.
    """
    if eyes.shape is None or not (prompt.images or pictures):
        return ()
    if pictures is None:
        if eyes.encoder is None:
            raise EngineError("INVALID_ARGUMENT", "this engine takes images with their rows, encoded elsewhere")
        pictures = tuple(eyes.encoder.encode(prompt.images))
    wanted = (eyes.shape.tokens, eyes.shape.text_hidden)
    if len(pictures) != len(prompt.images) or any(picture.rows.shape != wanted for picture in pictures):
        raise EngineError("INVALID_ARGUMENT", f"{len(prompt.images)} images need as many pictures of {wanted} numbers")
    pairs = zip(prompt.image_begins, pictures, strict=True)
    return tuple(Inset(begin, picture.digest, picture.rows) for begin, picture in pairs)

"""Which models take the images and sounds of a conversation, and what is said where none does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moltbot_mesh.errors import FieldViolation, InvalidArgument, MoltbotError, NotFound
from moltbot_models.manifest import taken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moltbot_models.manifest import Manifest

_WORDS = {"image": "images", "audio": "sounds"}
_NAMED = 8
"""Models that an error lists at most, for each thing that is taken."""


def takes(manifest: Manifest, modalities: Sequence[str]) -> bool:
    """Whether a model declares all of them; every model takes text."""
    return set(modalities) <= set(taken(manifest.input_modalities))


def not_taken(known: Sequence[Manifest], modalities: Sequence[str], model: str = "") -> MoltbotError:
    """The error for a conversation that the model asked for, or every one, would have to leave parts of.

    Args:
        known: The models of this task that are open to the tenant.
        modalities: What stands in the conversation.
        model: The one that was asked for by name; it is never replaced by another.
    """
    words = [_WORDS.get(modality, modality) for modality in modalities]
    asked = " and ".join(words)
    who = "; ".join(_who(known, modality, word) for modality, word in zip(modalities, words, strict=True))
    if model:
        said = f"{model!r} does not take {asked} in a conversation; {who}; ask another model, or send the text alone"
        return InvalidArgument(f"model: {said}", violations=(FieldViolation("model", said),))
    return NotFound(
        f"no model takes {asked} in a conversation; {who}; a model says what it takes by input_modalities",
        reason="MODEL_NOT_FOUND",
    )


def _who(known: Sequence[Manifest], modality: str, word: str) -> str:
    names = [manifest.id for manifest in known if takes(manifest, (modality,))]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{word} are taken by: {', '.join(names[:_NAMED]) or 'none'}{more}"

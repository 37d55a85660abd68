"""What a model directory holds: its format, its task, whether it can be served here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from moltbot_mesh.errors import InvalidArgument
from moltbot_models.encoder.config import EncoderError
from moltbot_models.encoder.shape import EncoderShape
from moltbot_models.engine.architecture import FAMILIES, read_architecture
from moltbot_models.engine.config import EngineError
from moltbot_models.engine.text_config import LLAVA
from moltbot_models.vision.shape import read_vision

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from moltbot_models.manifest import Task
    from moltbot_models.vision.shape import VisionShape

Format = Literal["huggingface", "openvino"]
_ENCODERS: dict[str, Task] = {
    f"{family}{head}": task
    for family in ("Bert", "Roberta", "XLMRoberta")
    for head, task in cast("dict[str, Task]", {"Model": "embedding", "ForSequenceClassification": ""}).items()
}
"""What a head does; one that classifies ranks if it has a single class."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model directory that can be served."""

    path: Path
    format: Format
    task: Task
    architecture: str
    """As config.json names it."""
    context_length: int
    """Tokens of prompt and answer, or of one text to embed."""
    size_bytes: int
    """Of the weights."""
    takes_images: bool = False
    """Whether images may stand beside text."""


def inspect(path: Path, context_length: int | None = None) -> Source:
    """Look at a model directory without loading it.

    Args:
        path: A Hugging Face directory, or one with an OpenVINO IR beside config.json and tokenizer.json.
        context_length: Cut the context to so many tokens.

    Raises:
        InvalidArgument: It is no model directory, or holds what is not built; the message names it.
    """
    if not path.is_dir():
        raise InvalidArgument(f"{path}: no such directory; name a Hugging Face directory, a GGUF file or a URL")
    config = _config(path)
    names = cast("list[str]", config.get("architectures") or [])
    architecture = names[0] if names else str(config.get("model_type", "unknown"))
    weights = [*path.glob("*.safetensors")] or [*path.glob("openvino_model.bin")]
    if not weights:
        other = next((file.name for kind in ("*.bin", "*.pt", "*.pth", "*.gguf") for file in path.glob(kind)), None)
        raise InvalidArgument(
            f"{path}: no weights (*.safetensors or openvino_model.bin)"
            + (f"; {other} is not read: convert it to safetensors" if other else "; download the whole model")
        )
    kind: Format = "huggingface" if weights[0].suffix == ".safetensors" else "openvino"
    if not (path / "tokenizer.json").is_file():
        raise InvalidArgument(f"{path}: no tokenizer.json; save the fast tokenizer beside the weights")
    for file in weights:
        if file.suffix == ".safetensors":
            check_weights(file)
    size = sum(file.stat().st_size for file in weights)
    if architecture in _ENCODERS:
        task, length = _encoder(config, _ENCODERS[architecture])
        return Source(path, kind, task, architecture, length, size)
    if kind == "openvino" and architecture not in FAMILIES:
        length = context_length or int(config.get("max_position_embeddings", 2048))
        return Source(path, kind, "text-generation", architecture, length, size)
    try:
        text = read_architecture(config, context_length)
        vision = read_vision(config, text.hidden_size, text.vocabulary)
        if vision is not None:
            _prepares_images(path, vision)
    except EngineError as error:
        known = f"; encoders built are {', '.join(_ENCODERS)}" if architecture not in (*FAMILIES, LLAVA) else ""
        raise InvalidArgument(f"{path}: {error}{known}", reason="MODEL_UNSUPPORTED") from None
    return Source(path, kind, "text-generation", architecture, text.context_length, size, vision is not None)


def _prepares_images(path: Path, vision: VisionShape) -> None:
    from moltbot_models.vision.preprocessing import read_preprocessing  # noqa: PLC0415 - brings Pillow

    read_preprocessing(path, vision.image_size)


def _encoder(config: Mapping[str, Any], task: Task) -> tuple[Task, int]:
    """What an encoder does, and the tokens that it takes.

    Raises:
        InvalidArgument: It has what is not built.
    """
    try:
        shape = EncoderShape.of(config, "embedding" if task == "embedding" else "classifier")
    except EncoderError as error:
        raise InvalidArgument(str(error), reason="MODEL_UNSUPPORTED") from None
    return task or ("rerank" if shape.labels == 1 else "classification"), shape.max_tokens


def check_weights(file: Path) -> None:
    """Look whether a safetensors file is whole, by its header.

    Raises:
        InvalidArgument: It is damaged or cut off.

    Source: https://github.com/huggingface/safetensors#format
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        size = file.stat().st_size
        try:
            header: dict[str, Any] = json.loads(stream.read(length)) if 8 + length <= size else {}
            end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
            whole = bool(8 + length + end <= size)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            whole = False
    if not whole:
        raise InvalidArgument(f"{file}: damaged or cut off; download the model again")


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise InvalidArgument(f"{path}: not a Hugging Face model directory (no config.json)") from None
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{file}: cannot be read: {error}; download the model again") from None
    if not isinstance(config, dict):
        raise InvalidArgument(f"{file}: must hold a JSON object; download the model again")
    return cast("dict[str, Any]", config)

"""What a model directory holds, safetensors or an OpenVINO IR, becomes the graph that the engine runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_models.engine.architecture import read_architecture
from moltbot_models.engine.config import EngineError
from moltbot_models.engine.graph import build_graph
from moltbot_models.engine.images import Eyes
from moltbot_models.engine.memory import available_bytes, check_fits
from moltbot_models.engine.openvino_ir import IR_FILE, read_ir
from moltbot_models.engine.safetensors import Checkpoint
from moltbot_models.vision.shape import read_vision

if TYPE_CHECKING:
    from pathlib import Path

    import openvino as ov

    from moltbot_models.engine.config import EngineConfig
    from moltbot_models.engine.model_directory import ModelDirectory
    from moltbot_models.vision.shape import VisionShape


@dataclass(frozen=True, slots=True)
class Source:
    """A graph with the inputs of `PagedModel`, and what the engine must know of it."""

    model: ov.Model
    vocabulary: int
    """Rows of the embedding: tokens from 0 up to it."""
    context_length: int
    """Tokens of prompt and answer together."""
    parameters: int
    eyes: Eyes


def read_source(path: Path, directory: ModelDirectory, config: EngineConfig) -> Source:
    """Return the graph of a directory: built from safetensors where there are some, else the IR.

    An IR keeps the precision it was exported with; `config.weights` says nothing to it.

    Raises:
        EngineError: `MODEL_UNSUPPORTED` naming what is not built, `MODEL_INVALID` for a damaged directory,
            `INVALID_ARGUMENT` for a context length that the model does not have, `MODEL_TOO_LARGE`.
    """
    if (path / IR_FILE).exists() and not list(path.glob("*.safetensors")):
        ir = read_ir(path, directory.config, config.context_length)
        return Source(ir.model, ir.vocabulary, ir.context_length, ir.parameters, Eyes())
    if not list(path.glob("*.safetensors")) and list(path.glob("openvino_model.*")):
        raise EngineError("MODEL_INVALID", f"{path / IR_FILE} is missing; export the model again")
    architecture = read_architecture(directory.config, config.context_length)
    checkpoint = Checkpoint(path)
    tables = 1 if architecture.tied_head else 2
    words = tables * architecture.vocabulary * architecture.hidden_size
    check_fits(checkpoint.parameters, config, available_bytes(), words)
    vision = read_vision(directory.config, architecture.hidden_size, architecture.vocabulary)
    try:
        model = build_graph(architecture, checkpoint, config.weights, insets=vision is not None)
    except RuntimeError as error:
        raise EngineError("ENGINE_FAILED", f"OpenVINO cannot build the model in {path}: {error}") from error
    eyes = Eyes() if vision is None else _eyes(path, vision, checkpoint, config)
    return Source(model, architecture.vocabulary, architecture.context_length, checkpoint.parameters, eyes)


def _eyes(path: Path, shape: VisionShape, checkpoint: Checkpoint, config: EngineConfig) -> Eyes:
    if not config.encodes_images:
        return Eyes(shape)
    from moltbot_models.vision.encoder import VisionEncoder  # noqa: PLC0415 - brings Pillow, which text does without

    encoder = VisionEncoder.load(
        path, shape, checkpoint, compute=config.compute, threads=config.threads, batch_images=config.batch_images
    )
    return Eyes(shape, encoder)

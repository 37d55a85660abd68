"""From a manifest to what Triton is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_mesh.errors import FailedPrecondition
from moltbot_models.encoder.shape import labels_of
from moltbot_models.engine.config import EngineError
from moltbot_models.manifest import engine_options
from moltbot_models.triton.repository import ModelSpec
from moltbot_models.vision.shape import image_rows

if TYPE_CHECKING:
    from moltbot_models.manifest import Manifest


def spec_of(manifest: Manifest) -> ModelSpec:
    """How a local model is placed in Triton.

    Raises:
        FailedPrecondition: Its config.json cannot be read.
    """
    path = Path(manifest.path)
    options = engine_options(manifest)
    labels: tuple[str, ...] = ()
    rows: tuple[int, int] | None = None
    if manifest.task == "text-generation" and not (path / "config.json").exists():
        return ModelSpec(manifest.id, manifest.task, path, options)  # the engine says what it lacks
    try:
        config = json.loads((path / "config.json").read_bytes())
        if manifest.task == "text-generation":
            rows = image_rows(config)
        if manifest.task == "embedding":
            options.setdefault("dimensions", str(int(config["hidden_size"])))
        if manifest.task == "classification":
            labels = labels_of(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EngineError) as error:
        raise FailedPrecondition(f"{path}: config.json cannot be read: {error}") from None
    return ModelSpec(manifest.id, manifest.task, path, options, labels, rows)

"""From a manifest to what Triton is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_mesh.errors import FailedPrecondition
from moltbot_models.encoder.config import EncoderError
from moltbot_models.encoder.shape import labels_of
from moltbot_models.manifest import engine_options
from moltbot_models.triton.repository import ModelSpec

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
    if manifest.task != "text-generation":
        try:
            config = json.loads((path / "config.json").read_bytes())
            if manifest.task == "embedding":
                options.setdefault("dimensions", str(int(config["hidden_size"])))
            if manifest.task == "classification":
                labels = labels_of(config)
        except (OSError, ValueError, KeyError, TypeError, EncoderError) as error:
            raise FailedPrecondition(f"{path}: config.json cannot be read: {error}") from None
    return ModelSpec(manifest.id, manifest.task, path, options, labels)

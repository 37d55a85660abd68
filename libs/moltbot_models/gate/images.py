"""The gate of models that see: how far the rows of images are from those of the same tower in FP32."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from moltbot_models.gate.report import Check

if TYPE_CHECKING:
    from pathlib import Path

    from moltbot_models.engine.config import EngineConfig

_PICTURES = 8
"""Of each set."""
_EDGE, _COARSE = 224, 14


def judge_images(path: Path, config: EngineConfig, least_cosine: float) -> tuple[Check, ...]:
    """Compare the rows of drawn pictures; nothing to compare for text alone, or where the tower runs in FP32. Blocks.

    Args:
        path: The model's directory.
        config: As it is served.
        least_cosine: Between a row and its reference, mean over rows.

    Raises:
        EngineError: The tower cannot be loaded.
    """
    from moltbot_models.vision.encoder import VisionEncoder  # noqa: PLC0415 - brings OpenVINO and Pillow

    tree = json.loads((path / "config.json").read_bytes())
    if config.compute == "f32" or "vision_config" not in tree:
        return ()
    served = VisionEncoder.open(path, config)
    exact = VisionEncoder.open(path, replace(config, compute="f32", kv="f32"))
    checks: list[Check] = []
    for seed, name in enumerate(("calibration", "held_out")):
        files = [("picture", data) for data in _drawn(seed)]
        cosines = [
            (one.rows * other.rows).sum(-1) / np.linalg.norm(one.rows, axis=-1) / np.linalg.norm(other.rows, axis=-1)
            for one, other in zip(served.encode(files), exact.encode(files), strict=True)
        ]
        checks.append(Check("image_cosine_mean", name, float(np.mean(cosines)), least_cosine, "at_least", _PICTURES))
    return tuple(checks)


def _drawn(seed: int) -> list[bytes]:
    """PNG files of soft and hard edges in every colour; the same for the same seed."""
    from PIL import Image  # noqa: PLC0415 - as above

    draw = np.random.default_rng(seed)
    found: list[bytes] = []
    for number in range(_PICTURES):
        coarse = draw.integers(0, 256, (_COARSE, _COARSE, 3), np.uint8)
        kind = Image.Resampling.NEAREST if number % 2 else Image.Resampling.BICUBIC
        file = io.BytesIO()
        Image.fromarray(coarse).resize((_EDGE, _EDGE), kind).save(file, "PNG")
        found.append(file.getvalue())
    return found

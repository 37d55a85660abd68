"""Encoders on a CPU: texts become L2-normalised vectors, texts and pairs become scores of classes.

Needs openvino, numpy and tokenizers alone, because it also runs inside Triton's Python backend. They are imported when
a model is asked for: manifests and settings need the configuration alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moltbot_models.encoder.config import EncoderConfig, EncoderError, Precision

if TYPE_CHECKING:
    from moltbot_models.encoder.classifier import Classifier
    from moltbot_models.encoder.encoder import Encoder

__all__ = ["Classifier", "Encoder", "EncoderConfig", "EncoderError", "Precision"]
_PLACES = {"Classifier": "classifier", "Encoder": "encoder"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)

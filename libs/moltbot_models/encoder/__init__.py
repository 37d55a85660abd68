"""Encoders on a CPU: texts become L2-normalised vectors, texts and pairs become scores of classes.

Needs openvino, numpy and tokenizers alone, because it also runs inside Triton's Python backend.
"""

from __future__ import annotations

from moltbot_models.encoder.checkpoint import EncoderError
from moltbot_models.encoder.classifier import Classifier
from moltbot_models.encoder.encoder import Encoder
from moltbot_models.encoder.runtime import Precision

__all__ = ["Classifier", "Encoder", "EncoderError", "Precision"]

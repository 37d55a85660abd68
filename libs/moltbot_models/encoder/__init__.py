"""The sentence encoder: texts become L2-normalised vectors on a CPU.

Needs openvino, numpy and tokenizers alone, because it also runs inside Triton's Python backend.
"""

from __future__ import annotations

from moltbot_models.encoder.checkpoint import EncoderError
from moltbot_models.encoder.encoder import Encoder, Precision

__all__ = ["Encoder", "EncoderError", "Precision"]

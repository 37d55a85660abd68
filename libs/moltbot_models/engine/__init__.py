"""The text engine: a Hugging Face directory served on a CPU with paged continuous batching and a hook at every step.

Needs openvino, numpy, tokenizers and jinja2 alone, because it also runs inside Triton's Python backend.
"""

from __future__ import annotations

from moltbot_models.engine.config import EngineConfig, EngineError, EngineStats
from moltbot_models.engine.engine import GenerationHandle, TextEngine
from moltbot_models.engine.sampler import Candidates, SamplerHook, SamplingContext

__all__ = [
    "Candidates",
    "EngineConfig",
    "EngineError",
    "EngineStats",
    "GenerationHandle",
    "SamplerHook",
    "SamplingContext",
    "TextEngine",
]

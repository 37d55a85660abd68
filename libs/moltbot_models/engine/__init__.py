"""The text engine: a Hugging Face directory served on a CPU with paged continuous batching and a hook at every step.

Needs openvino, numpy, tokenizers and jinja2 alone, because it also runs inside Triton's Python backend. They are
imported
when the engine itself is asked for: settings and manifests need its configuration alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moltbot_models.engine.config import EngineConfig, EngineError, EngineStats

if TYPE_CHECKING:
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
_PLACES = {
    "Candidates": "sampler",
    "GenerationHandle": "engine",
    "SamplerHook": "sampler",
    "SamplingContext": "sampler",
    "TextEngine": "engine",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)

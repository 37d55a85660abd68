"""How long an answer may take that comes whole: nothing of it can be seen before its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moltbot_models.generation import GenerationRequest
    from moltbot_models.manifest import Manifest

SLOWEST_TOKENS_PER_S = 10
"""Slower than reading speed is of no use to anybody."""
_UNKNOWN_TOKENS = 4096


def answer_timeout_s(manifest: Manifest, request: GenerationRequest) -> float:
    """Seconds for a whole answer: the time to the first token, and that of its tokens at the slowest useful pace."""
    tokens = request.sampling.max_tokens
    return manifest.timeout_s + (_UNKNOWN_TOKENS if tokens is None else tokens) / SLOWEST_TOKENS_PER_S

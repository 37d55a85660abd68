"""What a caller sets, what the engine reports, and the one error it raises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

WeightPrecision = Literal["u8", "i8", "u4", "f32", "bf16"]
ComputePrecision = Literal["f32", "bf16"]
CachePrecision = Literal["u8", "bf16", "f32"]
ErrorReason = Literal[
    "MODEL_UNSUPPORTED",
    "MODEL_INVALID",
    "MODEL_TOO_LARGE",
    "REQUEST_TOO_LARGE",
    "QUEUE_FULL",
    "INVALID_ARGUMENT",
    "ENGINE_FAILED",
    "ENGINE_CLOSED",
]
CHUNK_TOKENS: Mapping[ComputePrecision, int] = MappingProxyType({"f32": 56, "bf16": 120})
"""Prompt tokens beside answers unless somebody sets them: with a few answers, steps of 64 and 128 tokens, which take 30
and 35 ms of a model of 126 M parameters on two cores. A step in bf16 costs more whatever it computes, and less a
token."""


class EngineError(Exception):
    """A refusal or a failure, with a reason that a machine can read.

    Attributes:
        reason: One of `ErrorReason`.
    """

    def __init__(self, reason: ErrorReason, message: str) -> None:
        super().__init__(message)
        self.reason: ErrorReason = reason


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How a model is compiled and scheduled."""

    weights: WeightPrecision = "u8"
    """Storage of the matrices: per-row 8 bit (asymmetric `u8`, symmetric `i8`), 4 bit with a scale for 64 numbers
    (`u4`, asymmetric; embedding and head stay `u8`), or as floating point."""
    compute: ComputePrecision = "f32"
    """Arithmetic: `f32` is quicker for few short streams, `bf16` for many streams and long prompts."""
    kv: CachePrecision = "u8"
    """Storage of keys and values. `f32` needs `compute="f32"`, `bf16` needs `compute="bf16"` and AVX-512."""
    threads: int = 0
    """Threads of the matrix arithmetic; 0 lets OpenVINO take every core."""
    step_tokens: int = 256
    """Tokens computed in one step, at most."""
    chunk_tokens: int | None = None
    """Prompt tokens in a step beside answers under way, which wait for it, for each prompt that is not computed yet:
    few keep the time between tokens short, 0 lets prompts have what `step_tokens` leaves, for batch work. About so
    many, for a step has a multiple of 64 tokens. None takes `CHUNK_TOKENS`. Not in deterministic mode."""
    kv_cache_bytes: int = 256 << 20
    """Memory for keys and values; it is touched as it fills. 0 takes a quarter of what the machine has left."""
    max_queue: int = 256
    """Requests that may wait to be admitted; more are refused with `QUEUE_FULL`."""
    context_length: int | None = None
    """Tokens of prompt and answer together; None takes the model's own limit."""
    batch_images: int = 8
    """Images in one run of the vision tower, of a model that has one."""
    encodes_images: bool = True
    """Whether images are encoded here; if not, whoever submits a request brings their rows."""
    deterministic: bool = False
    """The same seed gives the same text whatever else runs in the batch.

    Forces `f32` arithmetic and cache, turns dynamic quantisation of activations off, cuts prompts at fixed places,
    reserves every block at admission and encodes every image alone.
    """


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since load, and the state at this moment."""

    running: int
    waiting: int
    blocks_total: int
    blocks_free: int
    """Blocks that hold nothing."""
    blocks_cached: int
    """Blocks that no request uses but whose content a later prompt may find."""
    steps: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Prompt tokens found in the prefix cache."""
    preemptions: int
    failures: int
    """Requests that ended with an error: of the engine, of a hook, or of the receiver of the answer."""
    parameters: int
    context_length: int
    load_seconds: float


def checked(config: EngineConfig) -> EngineConfig:
    """Return the configuration with its defaults filled in and the deterministic mode's demands applied.

    Raises:
        EngineError: `INVALID_ARGUMENT` for settings that cannot go together.
    """
    if min(config.step_tokens, config.max_queue, config.batch_images) < 1:
        raise EngineError("INVALID_ARGUMENT", "step_tokens, max_queue and batch_images must be at least 1")
    chunk = CHUNK_TOKENS[config.compute] if config.chunk_tokens is None else config.chunk_tokens
    config = replace(config, chunk_tokens=chunk)
    if min(config.kv_cache_bytes, chunk) < 0:
        raise EngineError("INVALID_ARGUMENT", "kv_cache_bytes and chunk_tokens must be at least 0")
    if config.context_length is not None and config.context_length < 2:
        raise EngineError("INVALID_ARGUMENT", "context_length must be at least 2 (one token of prompt, one of answer)")
    if config.deterministic:
        if config.compute != "f32":
            raise EngineError("INVALID_ARGUMENT", 'deterministic needs compute="f32": bf16 sums depend on the batch')
        return replace(config, kv="f32", chunk_tokens=0, batch_images=1)
    if config.kv not in {"u8", config.compute}:
        raise EngineError(
            "INVALID_ARGUMENT", f'kv="{config.kv}" needs compute="{config.kv}", not "{config.compute}"; or set kv="u8"'
        )
    return config

"""Reads config.json into the numbers the graph needs, and refuses by name whatever is not built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.text_config import LLAVA, text_config

if TYPE_CHECKING:
    from collections.abc import Mapping

Family = Literal["llama", "qwen2", "qwen3", "mistral"]
FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "MistralForCausalLM": "mistral",
}
_DEFAULTS: Mapping[Family, Mapping[str, Any]] = {
    "llama": {},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
}
"""What a config.json means that leaves these out, where it is not the same for all.

Source: transformers 5.24, configuration_{llama,qwen2,qwen3,mistral}.py.
"""


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding and its scaling."""

    kind: Literal["default", "linear", "llama3", "yarn"]
    theta: float
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """Whether the ramp of `yarn` begins and ends at whole dimensions."""
    attention_factor: float = 1.0
    """What cosine and sine are multiplied with."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder of the Llama shape: RMSNorm, rotary grouped-query attention, SwiGLU."""

    family: Family
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context_length: int
    norm_epsilon: float
    rope: Rope
    tied_head: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool


def read_architecture(config: Mapping[str, Any], context_length: int | None) -> Architecture:
    """Return what config.json describes, its context cut to `context_length` if that is given.

    Of a vision-language model it is the part that reads and writes text.

    Raises:
        EngineError: `MODEL_UNSUPPORTED` naming the architecture or feature that is not built, `MODEL_INVALID` for
            missing or impossible numbers.
    """
    config = text_config(config)
    names = cast("list[str]", config.get("architectures") or [])
    name = names[0] if names else f"model_type {config.get('model_type', 'unknown')}"
    family = FAMILIES.get(name)
    if family is None:
        raise _unsupported(f"architecture {name}", f"built are {', '.join((*FAMILIES, LLAVA))}")
    config = {**_DEFAULTS[family], **config}
    rope = _rope(config)
    own_length = _number(config, "max_position_embeddings")
    if rope.kind == "yarn":
        # Files often state the length before the stretching, which is what the factor is for.
        own_length = max(own_length, int(rope.factor * rope.original_context_length))
    if context_length is not None and context_length > own_length:
        raise EngineError(
            "INVALID_ARGUMENT", f"context_length {context_length} is beyond the model's limit of {own_length} tokens"
        )
    length = context_length or own_length
    _refuse_features(config, family, length)
    heads = _number(config, "num_attention_heads")
    kv_heads = int(config.get("num_key_value_heads") or heads)
    hidden = _number(config, "hidden_size")
    head_size = int(config.get("head_dim") or hidden // heads)
    if heads % kv_heads or head_size % 2:
        raise EngineError(
            "MODEL_INVALID", f"config.json: {heads} heads, {kv_heads} key-value heads, head size {head_size} do not fit"
        )
    llama_bias = bool(config.get("attention_bias", False))
    return Architecture(
        family=family,
        hidden_size=hidden,
        intermediate_size=_number(config, "intermediate_size"),
        layers=_number(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        vocabulary=_number(config, "vocab_size"),
        context_length=length,
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        rope=rope,
        tied_head=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or (family in {"llama", "qwen3"} and llama_bias),
        output_bias=family in {"llama", "qwen3"} and llama_bias,
        mlp_bias=family == "llama" and bool(config.get("mlp_bias", False)),
        qk_norm=family == "qwen3",
    )


def _refuse_features(config: Mapping[str, Any], family: Family, length: int) -> None:
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise _unsupported(f"hidden_act {activation}", "built is silu")
    if config.get("quantization_config"):
        method = cast("dict[str, Any]", config["quantization_config"]).get("quant_method", "unknown")
        raise _unsupported(f"a checkpoint quantised with {method}", "give the plain one, the engine compresses it")
    rope = cast("dict[str, Any]", config.get("rope_parameters") or {})
    rotary = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if float(rotary) != 1.0:
        raise _unsupported(f"partial_rotary_factor {rotary}", "built is 1.0")
    window = config.get("sliding_window")
    slides = config.get("use_sliding_window", False) if family in {"qwen2", "qwen3"} else family == "mistral"
    if window and slides and int(window) < length:
        raise _unsupported(f"sliding_window {window}", f"it has no effect with context_length at most {window}")
    others = sorted({*cast("list[str]", config.get("layer_types") or [])} - {"full_attention"})
    if others:
        raise _unsupported(f"layer_types with {', '.join(others)}", "built is full_attention")


def _rope(config: Mapping[str, Any]) -> Rope:
    # Newer exports hold everything in rope_parameters, older ones theta beside rope_scaling.
    scaling = cast("dict[str, Any]", config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(scaling.get("rope_theta", config.get("rope_theta", 10000.0)))
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    if any(isinstance(value, dict) for value in scaling.values()):
        raise _unsupported(f"rope_parameters for each of {', '.join(scaling)}", "built is one for all layers")
    try:
        # NTK by length is the plain embedding up to the model's own length, and no request may be longer.
        if kind in {"default", "dynamic"}:
            return Rope("default", theta)
        if kind == "yarn":
            return _yarn(config, scaling, theta)
        if kind == "linear":
            return Rope("linear", theta, float(scaling["factor"]))
        if kind == "llama3":
            return Rope(
                "llama3",
                theta,
                float(scaling["factor"]),
                float(scaling["low_freq_factor"]),
                float(scaling["high_freq_factor"]),
                int(scaling["original_max_position_embeddings"]),
            )
    except KeyError as error:
        raise EngineError("MODEL_INVALID", f"config.json: rope scaling {kind} lacks {error}") from error
    raise _unsupported(f"rope scaling {kind}", "built are default, linear, dynamic, llama3 and yarn")


def _yarn(config: Mapping[str, Any], scaling: Mapping[str, Any], theta: float) -> Rope:
    """YaRN as transformers reads it.

    Source: Peng et al. 2023, YaRN, arXiv:2309.00071; `_compute_yarn_parameters` of transformers.
    """
    length = _number(config, "max_position_embeddings")
    original = int(scaling.get("original_max_position_embeddings") or length)
    factor = float(scaling["factor"] or length / original)
    if factor < 1 or original < 1:
        raise EngineError("MODEL_INVALID", "config.json: rope scaling yarn needs a factor of at least 1 and a length")
    given, mscale, all_dim = (scaling.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim"))
    if given is not None:
        attention = float(given)
    elif mscale and all_dim:
        attention = _mscale(factor, float(mscale)) / _mscale(factor, float(all_dim))
    else:
        attention = _mscale(factor, 1.0)
    return Rope(
        "yarn",
        theta,
        factor,
        original_context_length=original,
        beta_fast=float(scaling.get("beta_fast") or 32),
        beta_slow=float(scaling.get("beta_slow") or 1),
        truncate=bool(scaling.get("truncate", True)),
        attention_factor=attention,
    )


def _mscale(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise EngineError("MODEL_INVALID", f"config.json: {key} must be a positive integer, it is {value!r}")
    return value


def _unsupported(what: str, mend: str) -> EngineError:
    return EngineError("MODEL_UNSUPPORTED", f"config.json: {what} is not built ({mend})")

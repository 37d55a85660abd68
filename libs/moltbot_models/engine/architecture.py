"""Reads config.json into the numbers the graph needs, and refuses by name whatever is not built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from moltbot_models.engine.config import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

Family = Literal["llama", "qwen2", "qwen3", "mistral"]
FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "MistralForCausalLM": "mistral",
}


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding and its scaling."""

    kind: Literal["default", "linear", "llama3"]
    theta: float
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192


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

    Raises:
        EngineError: `MODEL_UNSUPPORTED` naming the architecture or feature that is not built, `MODEL_INVALID` for
            missing or impossible numbers.
    """
    names = cast("list[str]", config.get("architectures") or [])
    name = names[0] if names else f"model_type {config.get('model_type', 'unknown')}"
    family = FAMILIES.get(name)
    if family is None:
        raise _unsupported(f"architecture {name}", f"built are {', '.join(FAMILIES)}")
    own_length = _number(config, "max_position_embeddings")
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
        rope=_rope(config),
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
    if float(config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise _unsupported(f"partial_rotary_factor {config['partial_rotary_factor']}", "built is 1.0")
    window = config.get("sliding_window")
    slides = config.get("use_sliding_window", False) if family in {"qwen2", "qwen3"} else family == "mistral"
    if window and slides and int(window) < length:
        raise _unsupported(f"sliding_window {window}", f"it has no effect with context_length at most {window}")
    if "sliding_attention" in cast("list[str]", config.get("layer_types") or []):
        raise _unsupported("layer_types with sliding_attention", "built is full_attention")


def _rope(config: Mapping[str, Any]) -> Rope:
    # Newer exports hold everything in rope_parameters, older ones theta beside rope_scaling.
    scaling = cast("dict[str, Any]", config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(scaling.get("rope_theta", config.get("rope_theta", 10000.0)))
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    try:
        if kind == "default":
            return Rope("default", theta)
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
    raise _unsupported(f"rope scaling {kind}", "built are default, linear and llama3")


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise EngineError("MODEL_INVALID", f"config.json: {key} must be a positive integer, it is {value!r}")
    return value


def _unsupported(what: str, mend: str) -> EngineError:
    return EngineError("MODEL_UNSUPPORTED", f"config.json: {what} is not built ({mend})")

"""The text part of a vision-language model's config.json, as complete as a text model's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from moltbot_models.engine.config import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

LLAVA = "LlavaForConditionalGeneration"
_BASE = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-6}
_QWEN = {"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32, "max_position_embeddings": 32768}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048},
    "mistral": {
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
}
"""What transformers assumes: published LLaVA files say of their text part only what differs from it."""
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of the text part; that of a text model is returned as it is.

    Raises:
        EngineError: `MODEL_UNSUPPORTED` for a text part that is not built.
    """
    if LLAVA not in cast("list[str]", config.get("architectures") or []):
        return config
    given = cast("dict[str, Any]", config.get("text_config") or {})
    kind = str(given.get("model_type", "llama"))
    if kind not in _DEFAULTS:
        raise EngineError(
            "MODEL_UNSUPPORTED",
            f"config.json: text_config.model_type {kind} is not built (built are {', '.join(_DEFAULTS)})",
        )
    text = {**_BASE, **_DEFAULTS[kind], **given}
    text["architectures"] = [_ARCHITECTURES[kind]]
    # Older files say it of the text part, newer ones of the whole.
    text["tie_word_embeddings"] = bool(given.get("tie_word_embeddings") or config.get("tie_word_embeddings"))
    if config.get("quantization_config"):
        text["quantization_config"] = config["quantization_config"]
    return text

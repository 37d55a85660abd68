"""From GGUF's metadata and tensor names to config.json and transformers' names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moltbot_mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from moltbot_models.formats.gguf_file import GgufFile

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_LAYER = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)")
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_ROPE_FACTORS = "rope_freqs.weight"
_MAX = 1 << 24


@dataclass(frozen=True, slots=True)
class Translation:
    """What becomes of one file's tensors."""

    config: dict[str, Any]
    names: dict[str, str]
    """transformers' name by GGUF's name, in the order to write them."""
    permuted: dict[str, int]
    """Heads by GGUF's name, for tensors whose rows llama.cpp reordered."""


def translate(file: GgufFile) -> Translation:
    """Return config.json and the names of the tensors.

    Raises:
        InvalidArgument: Naming the architecture, feature or tensor that is not built, or the entry that is missing.
    """
    family = str(file.metadata.get("general.architecture", "none"))
    # Mistral is written under llama's name; some writers use its own.
    prefix, family = family, "llama" if family == "mistral" else family
    if family not in _CLASSES:
        raise InvalidArgument(
            f"GGUF architecture {family} is not built (built are {', '.join(_CLASSES)} and mistral); "
            "take the model's Hugging Face directory or serve it with another engine as an upstream"
        )
    if int(file.metadata.get("split.count", 1)) > 1:
        raise InvalidArgument("this is one part of a split model; join the parts with llama-gguf-split --merge")
    if int(file.metadata.get(f"{prefix}.expert_count", 0)):
        raise InvalidArgument(f"{family} with experts (MoE) is not built; take a dense model")
    names = _names(file)
    config = _Config(file, prefix, family, names).config()
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    permuted = {
        name: heads[match[2]]
        for name in names
        if family == "llama" and (match := _LAYER.fullmatch(name)) and match[2] in heads
    }
    return Translation(config, names, permuted)


def unpermuted(data: NDArray[Any], heads: int) -> NDArray[Any]:
    """Return q or k rows in transformers' order: halves of the rotation one after the other, not interleaved.

    Source: llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute, of which this is the inverse.
    """
    half = data.shape[0] // heads // 2
    return data.reshape(heads, half, 2, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)


def _names(file: GgufFile) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in file.tensors:
        match = _LAYER.fullmatch(name)
        if name in _NAMES:
            names[name] = _NAMES[name]
        elif match and match[2] in _LAYER_NAMES:
            names[name] = f"model.layers.{int(match[1])}.{_LAYER_NAMES[match[2]]}.{match[3]}"
        elif name != _ROPE_FACTORS:
            raise InvalidArgument(f"the tensor {name} belongs to a feature that is not built")
    if "token_embd.weight" not in names:
        raise InvalidArgument("there is no tensor token_embd.weight; convert the model again")
    return names


class _Config:
    def __init__(self, file: GgufFile, prefix: str, family: str, names: Mapping[str, str]) -> None:
        self._file, self._prefix, self._family, self._names = file, prefix, family, names

    def config(self) -> dict[str, Any]:
        heads = self._count("attention.head_count")
        hidden = self._count("embedding_length")
        head_size = self._count("attention.key_length", hidden // heads)
        for key in ("attention.value_length", "rope.dimension_count"):
            if self._count(key, head_size) != head_size:
                raise InvalidArgument(f"{self._prefix}.{key} differs from the head size {head_size}; not built")
        window = self._count("attention.sliding_window", 0)
        vocabulary, width = self._file.tensors["token_embd.weight"].shape[-2:]
        if width != hidden:
            raise InvalidArgument(f"token_embd.weight has rows of {width}, embedding_length is {hidden}")
        mistral = bool(window) or self._prefix == "mistral"
        config: dict[str, Any] = {
            "architectures": ["MistralForCausalLM" if mistral else _CLASSES[self._family]],
            "model_type": "mistral" if mistral else self._family,
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": self._count("feed_forward_length"),
            "max_position_embeddings": self._count("context_length"),
            "num_hidden_layers": self._count("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._count("attention.head_count_kv", heads),
            "head_dim": head_size,
            "rms_norm_eps": self._real("attention.layer_norm_rms_epsilon", 1e-6),
            "rope_theta": self._real("rope.freq_base", 10000.0),
            "vocab_size": vocabulary,
            "tie_word_embeddings": "output.weight" not in self._names,
            "torch_dtype": "float16",
        }
        if mistral:
            config["sliding_window"] = window or None
        if self._family == "llama":
            config["attention_bias"] = "blk.0.attn_q.bias" in self._names
            config["mlp_bias"] = "blk.0.ffn_gate.bias" in self._names
        scaling = self._rope_scaling(config)
        return config | ({"rope_scaling": scaling} if scaling else {})

    def _rope_scaling(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        kind = str(self._entry("rope.scaling.type", "none"))
        # Old writers gave the factor alone, which meant linear.
        factor = self._real("rope.scaling.factor", self._real("rope.scale_linear", 1.0))
        if kind == "none" and factor != 1.0:
            kind = "linear"
        if _ROPE_FACTORS in self._file.tensors:
            if kind != "none":
                raise InvalidArgument(f"rope scaling {kind} together with {_ROPE_FACTORS} is not built")
            return llama3_scaling(self._file.tensors[_ROPE_FACTORS].to_f32(), config["rope_theta"], config["head_dim"])
        if kind == "none" or (kind == "linear" and factor == 1.0):
            return None
        if kind == "linear":
            return {"rope_type": "linear", "factor": factor}
        if kind != "yarn":
            raise InvalidArgument(f"rope scaling {kind} is not built (built are linear and Llama 3's)")
        for key in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
            if self._real(f"rope.scaling.{key}", 1.0) != 1.0:
                raise InvalidArgument(f"rope.scaling.{key} other than 1 is not built")
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": self._count("rope.scaling.original_context_length"),
            "beta_fast": self._real("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": self._real("rope.scaling.yarn_beta_slow", 1.0),
        }

    def _entry(self, key: str, default: object) -> Any:
        return self._file.metadata.get(f"{self._prefix}.{key}", default)

    def _count(self, key: str, default: int | None = None) -> int:
        value = self._entry(key, default)
        if isinstance(value, list) and value and len(set(value)) == 1:  # pyright: ignore[reportUnknownArgumentType]
            value = value[0]
        if type(value) is not int or not (0 if default == 0 else 1) <= value <= _MAX:
            raise InvalidArgument(f"{self._prefix}.{key} must be a positive whole number, it is {value!r:.40}")
        return value

    def _real(self, key: str, default: float) -> float:
        value = self._entry(key, default)
        if not isinstance(value, int | float) or not 0 < value < 1e12:
            raise InvalidArgument(f"{self._prefix}.{key} must be a positive number, it is {value!r:.40}")
        # Metadata are float32: 1e-5 comes back as 9.999999747378752e-06, which is the number that is meant.
        return float(np.format_float_scientific(np.float32(value), unique=True))


def llama3_scaling(factors: NDArray[np.float32], theta: float, head_size: int) -> dict[str, Any]:
    """Return the parameters of Llama 3's scaling that make these factors; the file holds the factors alone.

    Raises:
        InvalidArgument: No parameters in use make them.
    """
    frequencies = theta ** -(np.arange(0, head_size, 2, dtype=np.float64) / head_size)
    if factors.shape != frequencies.shape:
        raise InvalidArgument(f"{_ROPE_FACTORS} has shape {factors.shape}, {frequencies.shape} is expected")
    wavelengths = 2 * np.pi / frequencies
    factor = float(factors.max())
    for low, high in ((1.0, 4.0), (1.0, 2.0), (1.0, 8.0)):
        for original in (8192, *(1 << power for power in range(5, 21))):
            smooth = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
            if np.allclose(1 / ((1 - smooth) / factor + smooth), factors, rtol=1e-4):
                return {
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low,
                    "high_freq_factor": high,
                    "original_max_position_embeddings": original,
                }
    raise InvalidArgument(f"{_ROPE_FACTORS} is not of Llama 3's scaling; other factors are not built")

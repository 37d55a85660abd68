"""Writes GGUF files of random models the way llama.cpp's converter does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf

from moltbot_testkit.random_model import CHATML, SPECIAL_TOKENS, byte_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OTHERS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a tensor of transformers."""
    if name in _OTHERS:
        return _OTHERS[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_LAYER[module]}.{kind}"


def permuted(data: NDArray[Any], heads: int) -> NDArray[Any]:
    """Return q or k rows as llama.cpp orders them for the llama architecture."""
    half = data.shape[0] // heads // 2
    return data.reshape(heads, 2, half, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)


def write_gguf(
    file: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, NDArray[np.float32]],
    tokenizer: Mapping[str, Any],
    *,
    kind: str = "F16",
    metadata: Mapping[str, Any] | None = None,
    extra: Mapping[str, NDArray[np.float32]] | None = None,
) -> Path:
    """Write a file; matrices are stored as `kind`, vectors as F32.

    Args:
        file: To write.
        config: As config.json.
        weights: By transformers' names.
        tokenizer: Entries below `tokenizer.`.
        kind: `F32`, `F16`, `BF16` or what the gguf package quantises (`Q8_0`, `Q4_0`).
        metadata: Further entries, below the architecture's name.
        extra: Further tensors by llama.cpp's names.
    """
    family = "llama" if config["model_type"] == "mistral" else config["model_type"]
    writer = gguf.GGUFWriter(file, family)
    entries: dict[str, Any] = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": config["rope_theta"],
        "rope.dimension_count": config["head_dim"],
    }
    entries = {f"{family}.{key}": value for key, value in (entries | dict(metadata or {})).items()}
    for key, value in (entries | {f"tokenizer.{key}": value for key, value in tokenizer.items()}).items():
        _add(writer, key, value)
    quantisation = gguf.GGMLQuantizationType[kind]
    for name, tensor in weights.items():
        data = tensor
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            data = permuted(data, heads)
        if data.ndim == 1:
            writer.add_tensor(gguf_name(name), data)
        else:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(data, quantisation), raw_dtype=quantisation)
    for name, tensor in (extra or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def byte_entries(size: int = 259, **changes: Any) -> dict[str, Any]:
    """Return the entries of a random model's tokenizer; one token is the union of two, so that there is a merge."""
    tokenizer = byte_tokenizer(size)
    tokens = [tokenizer.id_to_token(number) for number in range(size)]
    tokens[tokens.index("w250") if "w250" in tokens else 255] = "aa"
    return {
        "ggml.model": "gpt2",
        "ggml.pre": "qwen2",
        "ggml.tokens": tokens,
        "ggml.token_type": [3 if token in SPECIAL_TOKENS else 1 for token in tokens],
        "ggml.merges": ["a a"],
        "ggml.eos_token_id": 258,
        "ggml.bos_token_id": 256,
        "ggml.add_bos_token": False,
        "chat_template": CHATML,
    } | changes


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)

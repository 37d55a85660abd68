"""Writes Hugging Face model directories with random weights, for tests and benchmarks of the text engine."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{%- if tools %}{{ '<|im_start|>system\\nTools, called as <tool_call>:\\n' }}"
    "{%- for tool in tools %}{{ tool | tojson + '\\n' }}{%- endfor %}{{ '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
_FAMILIES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
}


def model_config(family: str, **changes: Any) -> dict[str, Any]:
    """Return a small config.json of a family; `changes` override its entries."""
    return {
        "architectures": [_FAMILIES[family]],
        "model_type": family,
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 256 + len(SPECIAL_TOKENS),
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": 256,
    } | changes


def random_weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return tensors under transformers' names, drawn so that the logits are far from uniform."""
    draw = np.random.default_rng(seed)
    family, hidden = config["model_type"], config["hidden_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    inner = config["intermediate_size"]

    def matrix(rows: int, columns: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (draw.standard_normal((rows, columns), np.float32) * np.float32(scale / columns**0.5)).astype(np.float32)

    def norm(size: int) -> NDArray[np.float32]:
        return (1 + 0.1 * draw.standard_normal(size)).astype(np.float32)

    def bias(size: int) -> NDArray[np.float32]:
        return (0.2 * draw.standard_normal(size)).astype(np.float32)

    weights = {"model.embed_tokens.weight": matrix(config["vocab_size"], hidden, 3.0)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, rows, columns in (
            ("self_attn.q_proj", query, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, query),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ):
            weights[f"{prefix}{name}.weight"] = matrix(rows, columns, 1.5)
            attention = "self_attn" in name
            biased = family == "qwen2" and "o_proj" not in name if attention else config.get("mlp_bias", False)
            if biased or (attention and family != "qwen2" and config.get("attention_bias", False)):
                weights[f"{prefix}{name}.bias"] = bias(rows)
        if family == "qwen3":
            weights[f"{prefix}self_attn.q_norm.weight"] = norm(config["head_dim"])
            weights[f"{prefix}self_attn.k_norm.weight"] = norm(config["head_dim"])
        weights[f"{prefix}input_layernorm.weight"] = norm(hidden)
        weights[f"{prefix}post_attention_layernorm.weight"] = norm(hidden)
    weights["model.norm.weight"] = norm(hidden)
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(config["vocab_size"], hidden, 3.0)
    return weights


def stored_as(weights: Mapping[str, NDArray[np.float32]], kind: str) -> dict[str, NDArray[Any]]:
    """Return the tensors rounded to what a file of `F32`, `F16` or `BF16` holds (BF16 as uint16, cut)."""
    if kind == "BF16":
        return {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in weights.items()}
    return {name: value.astype({"F32": np.float32, "F16": np.float16}[kind]) for name, value in weights.items()}


def weights_sha256(weights: Mapping[str, NDArray[Any]]) -> str:
    """A digest of all tensors, to tell whether two have drawn the same."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()


def write_safetensors(file: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write tensors in the safetensors format; uint16 arrays are stored as BF16."""
    kinds = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": kinds[tensor.dtype.name], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        for tensor in tensors.values():
            stream.write(np.ascontiguousarray(tensor).tobytes())


def byte_tokenizer(size: int = 259) -> Tokenizer:
    """Return a byte-level tokenizer without merges: the 256 bytes, the special tokens, then words up to `size`.

    Text is encoded as bytes alone; the words can only be answered, so that a random model says something at each step.
    """
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL_TOKENS]
    pieces += [f"w{number}" for number in range(len(pieces), size)]
    tokenizer = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def write_model(
    directory: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, NDArray[Any]],
    *,
    files: int = 1,
    **generation: Any,
) -> Path:
    """Write a whole directory, the weights in so many files; `generation` becomes generation_config.json.

    Returns the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(dict(config)))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [256, 258], **generation}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML, "eos_token": "<|im_end|>"}))
    byte_tokenizer(config["vocab_size"]).save(str(directory / "tokenizer.json"))
    if files == 1:
        write_safetensors(directory / "model.safetensors", weights)
        return directory
    places: dict[str, str] = {}
    for number in range(files):
        names = list(weights)[number::files]
        file = f"model-{number + 1:05}-of-{files:05}.safetensors"
        write_safetensors(directory / file, {name: weights[name] for name in names})
        places |= dict.fromkeys(names, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return directory

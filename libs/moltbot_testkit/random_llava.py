"""Writes directories of small LLaVA models with random weights, under the names that published checkpoints have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import AddedToken

from moltbot_testkit.random_model import byte_tokenizer, model_config, random_weights, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

IMAGE_TOKEN, IMAGE_TOKEN_ID = "<image>", 259
EDGE = 32
"""Pixels; four by four patches."""
TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{%- for part in message.content %}{%- if part.type == 'image' %}{{ '<image>' }}"
    "{%- else %}{{ part.text }}{%- endif %}{%- endfor %}{{ '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)


def llava_config(family: str = "llama", tower: str = "clip", **changes: Any) -> dict[str, Any]:
    """Return a small config.json; `changes` override its entries, those of `text` and `vision` the parts'."""
    text = model_config(family, vocab_size=IMAGE_TOKEN_ID + 1) | changes.pop("text", {})
    vision = {
        "model_type": f"{tower}_vision_model",
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": EDGE,
        "patch_size": 8,
    } | changes.pop("vision", {})
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": text,
        "vision_config": vision,
        "image_token_index": IMAGE_TOKEN_ID,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default" if tower == "clip" else "full",
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": text["tie_word_embeddings"],
    } | changes


def llava_weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return tensors whose images change what the text model says."""
    draw = np.random.default_rng(seed + 1000)
    vision, hidden = config["vision_config"], config["vision_config"]["hidden_size"]
    clip = vision["model_type"] == "clip_vision_model"

    def matrix(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        columns = int(np.prod(shape[1:]))
        return (draw.standard_normal(shape, np.float32) * np.float32(scale / columns**0.5)).astype(np.float32)

    def linear(name: str, rows: int, columns: int, scale: float = 1.0) -> dict[str, NDArray[np.float32]]:
        bias = (0.2 * draw.standard_normal(rows)).astype(np.float32)
        return {f"{name}.weight": matrix(rows, columns, scale=scale), f"{name}.bias": bias}

    def norm(name: str) -> dict[str, NDArray[np.float32]]:
        weight = (1 + 0.1 * draw.standard_normal(hidden)).astype(np.float32)
        return {f"{name}.weight": weight, f"{name}.bias": (0.1 * draw.standard_normal(hidden)).astype(np.float32)}

    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    at = "vision_tower.vision_model"
    found = {
        f"{at}.embeddings.patch_embedding.weight": matrix(hidden, 3, vision["patch_size"], vision["patch_size"]),
        f"{at}.embeddings.position_embedding.weight": matrix(patches + clip, hidden, scale=3.0),
    }
    if clip:
        found[f"{at}.embeddings.class_embedding"] = matrix(1, hidden, scale=3.0)[0]
        found |= norm(f"{at}.pre_layrnorm")
    else:
        found[f"{at}.embeddings.patch_embedding.bias"] = matrix(1, hidden)[0]
    for layer in range(vision["num_hidden_layers"]):
        prefix, wide = f"{at}.encoder.layers.{layer}", vision["intermediate_size"]
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{prefix}.self_attn.{part}", hidden, hidden, 1.5)
        found |= linear(f"{prefix}.mlp.fc1", wide, hidden, 1.5) | linear(f"{prefix}.mlp.fc2", hidden, wide, 1.5)
        found |= norm(f"{prefix}.layer_norm1") | norm(f"{prefix}.layer_norm2")
    found |= norm(f"{at}.post_layernorm")
    layers = config["vision_feature_layer"]
    wide, text = hidden * (len(layers) if isinstance(layers, list) else 1), config["text_config"]
    found |= linear("multi_modal_projector.linear_1", text["hidden_size"], wide, 2.0)
    found |= linear("multi_modal_projector.linear_2", text["hidden_size"], text["hidden_size"], 2.0)
    return found | {f"language_model.{name}": tensor for name, tensor in random_weights(text, seed).items()}


def write_llava(directory: Path, config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> Path:
    """Write a whole directory and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    tower = config["vision_config"]["model_type"]
    size: dict[str, Any] = {"shortest_edge": EDGE}
    crop: dict[str, Any] = {"crop_size": {"height": EDGE, "width": EDGE}}
    if tower == "siglip_vision_model":
        size, crop = crop["crop_size"], {}
    kind = "CLIPImageProcessor" if crop else "SiglipImageProcessor"
    tokenizer = byte_tokenizer(IMAGE_TOKEN_ID)
    tokenizer.add_special_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    tokenizer.save(str(directory / "tokenizer.json"))
    files = {
        "config.json": dict(config),
        "generation_config.json": {"eos_token_id": [256, 258]},
        "preprocessor_config.json": {"image_processor_type": kind, "size": size, **crop},
        "tokenizer_config.json": {"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"},
    }
    for name, tree in files.items():
        (directory / name).write_text(json.dumps(tree))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    write_safetensors(directory / "model.safetensors", weights)
    return directory

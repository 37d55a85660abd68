"""The tensors that an architecture's checkpoint holds, by transformers' names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moltbot_models.engine.architecture import Architecture


def tensor_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that the graph reads."""
    a = architecture
    query, kv = a.heads * a.head_size, a.kv_heads * a.head_size
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (a.vocabulary, a.hidden_size),
        "model.norm.weight": (a.hidden_size,),
    }
    if not a.tied_head:
        shapes["lm_head.weight"] = (a.vocabulary, a.hidden_size)
    linear = (
        ("self_attn.q_proj", query, a.hidden_size, a.qkv_bias),
        ("self_attn.k_proj", kv, a.hidden_size, a.qkv_bias),
        ("self_attn.v_proj", kv, a.hidden_size, a.qkv_bias),
        ("self_attn.o_proj", a.hidden_size, query, a.output_bias),
        ("mlp.gate_proj", a.intermediate_size, a.hidden_size, a.mlp_bias),
        ("mlp.up_proj", a.intermediate_size, a.hidden_size, a.mlp_bias),
        ("mlp.down_proj", a.hidden_size, a.intermediate_size, a.mlp_bias),
    )
    for layer in range(a.layers):
        prefix = f"model.layers.{layer}."
        for name, rows, columns, biased in linear:
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            if biased:
                shapes[f"{prefix}{name}.bias"] = (rows,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}{name}.weight"] = (a.hidden_size,)
        if a.qk_norm:
            for name in ("q_norm", "k_norm"):
                shapes[f"{prefix}self_attn.{name}.weight"] = (a.head_size,)
    return shapes

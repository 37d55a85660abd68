"""The model as torch trains it: Llama's architecture with the names that Llama's checkpoints have.

Source: Touvron et al., "LLaMA" (2023); Ainslie et al., "GQA" (2023); Su et al., "RoFormer" (2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own abbreviation

_CHUNK = 128  # queries that attend at once


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model."""

    vocabulary: int = 2048
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 512
    context: int = 2048
    rope_theta: float = 1e6
    norm_epsilon: float = 1e-5

    @property
    def head_size(self) -> int:
        """Elements of a head."""
        return self.hidden // self.heads

    def config(self, end: int, pad: int) -> dict[str, Any]:
        """config.json, with the ids of the end of a turn and of padding."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": self.vocabulary, "hidden_size": self.hidden,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size, "intermediate_size": self.intermediate, "hidden_act": "silu", "attention_bias": False,
            "mlp_bias": False, "attention_dropout": 0.0, "max_position_embeddings": self.context, "rope_theta": self.rope_theta,
            "rope_scaling": None, "rms_norm_eps": self.norm_epsilon, "tie_word_embeddings": True, "initializer_range": 0.02,
            "bos_token_id": None, "eos_token_id": end, "pad_token_id": pad, "torch_dtype": "bfloat16", "use_cache": True,
        }  # fmt: skip


def initial(shape: Shape, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Weights to start from, f32, under their checkpoint names."""
    kv = shape.kv_heads * shape.head_size
    hidden, wide = shape.hidden, shape.intermediate

    def matrix(rows: int, columns: int, scale: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * scale

    weights = {"model.embed_tokens.weight": matrix(shape.vocabulary, hidden, 0.02)}
    small = 0.25 * hidden**-0.5
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        weights |= {
            at + "input_layernorm.weight": torch.ones(hidden),
            at + "self_attn.q_proj.weight": matrix(hidden, hidden, small),
            at + "self_attn.k_proj.weight": matrix(kv, hidden, small),
            at + "self_attn.v_proj.weight": matrix(kv, hidden, small),
            at + "self_attn.o_proj.weight": torch.zeros(hidden, hidden),
            at + "post_attention_layernorm.weight": torch.ones(hidden),
            at + "mlp.gate_proj.weight": matrix(wide, hidden, small),
            at + "mlp.up_proj.weight": matrix(wide, hidden, small),
            at + "mlp.down_proj.weight": torch.zeros(hidden, wide),
        }
    _wire_copying(weights, shape, generator)
    return weights | {"model.norm.weight": torch.ones(hidden)}


def _wire_copying(weights: dict[str, torch.Tensor], shape: Shape, generator: torch.Generator) -> None:
    """Start with a circuit that copies: in this much training it would hardly form by itself.

    Words live in the first half of the residual stream. The heads of the first layer look one, two and three places
    back and over the last dozen, and write what they see into quarters of the second half. Two heads of the second
    layer look for places before which stands what now stands last: three words in order, and the dozen as a bag, so
    that of many equal words (digits, the keys of rows) the one is found whose surroundings are equal too. They write
    what stands there into the first half, as a prediction; the other two heads match one word, for short contexts.
    All of it is a start and trained like the rest.

    Source: Olsson et al., "In-context Learning and Induction Heads" (2022), for the circuit; Trockman and Kolter,
    "Mimetic Initialization of Self-Attention Layers" (2023), for starting from structure.
    """
    size, half, constant = shape.head_size, shape.hidden // 2, shape.hidden - 1
    pairs, quarter = size // 2, half // 4
    embedding = weights["model.embed_tokens.weight"]
    embedding[:, :half] *= 5.0
    embedding[:, half:] *= 0.25
    embedding[:, constant] = 0.4
    read = torch.linalg.qr(torch.randn(half, size, generator=generator))[0].T
    angle = shape.rope_theta ** -(torch.arange(pairs).float() / pairs)
    near, wide = torch.zeros(size), torch.zeros(size)
    near[:5] = torch.tensor([1.6, 1.3, 1.0, 0.7, 0.4])  # the quickly turning pairs tell one place from the next
    wide[4:10] = 0.8  # these tell the last dozen from the rest

    first = "model.layers.0.self_attn."
    weights[first + "q_proj.weight"][:] = 0.0
    for kv in range(2):
        weights[first + "k_proj.weight"][kv * size : (kv + 1) * size] = 0.0
        weights[first + "k_proj.weight"][kv * size : (kv + 1) * size, constant] = near + wide
        weights[first + "v_proj.weight"][kv * size : (kv + 1) * size] = 0.0
        weights[first + "v_proj.weight"][kv * size : (kv + 1) * size, :half] = read
    for head, (back, window, gain, written) in enumerate(
        ((1, near, 1.6, 0.1), (2, near, 1.6, 0.1), (3, near, 1.6, 0.1), (4, wide, 2.0, 0.15))
    ):
        turned = torch.cat((window[:pairs] * torch.cos(-back * angle), window[:pairs] * torch.sin(-back * angle)))
        weights[first + "q_proj.weight"][head * size : (head + 1) * size, constant] = gain * turned
        rows = torch.arange(quarter if head < 3 else quarter - 1)
        weights[first + "o_proj.weight"][half + head * quarter + rows, head * size + rows] = written

    second = "model.layers.1.self_attn."
    slow = torch.cat((torch.arange(pairs - 20, pairs), torch.arange(size - 20, size)))  # match the same near and far
    parts = torch.split(slow[torch.randperm(len(slow), generator=generator)], [12, 10, 8, 10])
    copied = torch.linalg.qr(torch.randn(half, half, generator=generator))[0]
    gain, per_kv = 2.0, shape.heads // shape.kv_heads
    for kv in range(2):
        # The two pairs of heads read other rows of what the first layer wrote, and copy one half of a word each.
        rows = [torch.randperm(quarter - 1, generator=generator)[: len(part)] for part in parts]
        keys = weights[second + "k_proj.weight"]
        keys[kv * size : (kv + 1) * size] = 0.0
        for place in range(4):
            keys[parts[place] + kv * size, half + place * quarter + rows[place]] = gain
        for head, gains in (
            (kv * per_kv, (gain, gain, gain, gain)),
            (kv * per_kv + 1, (1.8 * gain, 0.5 * gain, 0.0, 0.0)),
        ):
            queries = weights[second + "q_proj.weight"]
            queries[head * size : (head + 1) * size] = 0.0
            queries[parts[0] + head * size, :half] = gains[0] * read[rows[0]]
            for place in (1, 2):
                queries[parts[place] + head * size, half + (place - 1) * quarter + rows[place]] = gains[place]
            queries[parts[3] + head * size, half + 3 * quarter + rows[3]] = gains[3]
            share = 0.4 if head % per_kv == 0 else 0.2
            weights[second + "o_proj.weight"][:half, head * size : (head + 1) * size] = (
                share * copied[kv * size : (kv + 1) * size].T
            )
        weights[second + "v_proj.weight"][kv * size : (kv + 1) * size] = 0.0
        weights[second + "v_proj.weight"][kv * size : (kv + 1) * size, :half] = copied[kv * size : (kv + 1) * size]


def rope(shape: Shape, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine for positions [batch, length]: [batch, 1, length, head size] each."""
    frequencies = shape.rope_theta ** -(torch.arange(0, shape.head_size, 2).float() / shape.head_size)
    angles = positions[..., None].float() * frequencies
    angles = torch.cat((angles, angles), -1)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def _attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
    """Attention under a mask that lets nothing see what comes later, in chunks that leave the later keys out.

    Compiled, it takes less than half of the time of torch's own attention with a mask on a CPU.
    """
    length = q.shape[2]
    q = q * q.shape[-1] ** -0.5
    out: list[torch.Tensor] = []
    for start in range(0, length, _CHUNK):
        end = min(start + _CHUNK, length)
        scores = (q[:, :, start:end] @ k[:, :, :end].transpose(-1, -2)).float()
        scores = scores.masked_fill(~sees[:, :, start:end, :end], -torch.inf)
        out.append(torch.softmax(scores, -1).to(q.dtype) @ v[:, :, :end])
    return torch.cat(out, 2)


def hidden_states(
    weights: dict[str, torch.Tensor],
    shape: Shape,
    tokens: torch.Tensor,
    turn: tuple[torch.Tensor, torch.Tensor],
    sees: torch.Tensor | None,
    cache: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> torch.Tensor:
    """Normed states of the last layer.

    Args:
        weights: By checkpoint name.
        shape: Sizes.
        tokens: [batch, length].
        turn: From `rope`, for the same tokens.
        sees: bool [batch, 1, length, keys]; None means causal.
        cache: Keys and values by layer, grown in place; empty at first.

    Returns:
        [batch, length, hidden].
    """
    batch, length = tokens.shape
    epsilon, groups = shape.norm_epsilon, shape.heads // shape.kv_heads
    x = F.embedding(tokens, weights["model.embed_tokens.weight"])
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        y = F.rms_norm(x, (shape.hidden,), weights[at + "input_layernorm.weight"], epsilon)
        q, k, v = (
            F.linear(y, weights[f"{at}self_attn.{name}_proj.weight"])
            .view(batch, length, -1, shape.head_size)
            .transpose(1, 2)
            for name in "qkv"
        )
        q, k = _turned(q, *turn), _turned(k, *turn)
        if cache is not None:
            if layer < len(cache):
                k, v = torch.cat((cache[layer][0], k), 2), torch.cat((cache[layer][1], v), 2)
                cache[layer] = (k, v)
            else:
                cache.append((k, v))
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1) if sees is None else _attended(q, k, v, sees)
        x = x + F.linear(z.transpose(1, 2).reshape(batch, length, -1), weights[at + "self_attn.o_proj.weight"])
        y = F.rms_norm(x, (shape.hidden,), weights[at + "post_attention_layernorm.weight"], epsilon)
        gated = F.silu(F.linear(y, weights[at + "mlp.gate_proj.weight"])) * F.linear(
            y, weights[at + "mlp.up_proj.weight"]
        )
        x = x + F.linear(gated, weights[at + "mlp.down_proj.weight"])
    return F.rms_norm(x, (shape.hidden,), weights["model.norm.weight"], epsilon)

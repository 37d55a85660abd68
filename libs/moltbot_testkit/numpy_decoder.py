"""A plain numpy forward of the families, one sequence at a time, without cache or batching."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class NumpyDecoder:
    """Computes Llama, Qwen2, Qwen3 and Mistral shapes in float64, slowly and plainly."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, NDArray[np.float32]]) -> None:
        self.c, self.w = config, weights

    def logits(self, tokens: Sequence[int]) -> Floats:
        """Return logits [len(tokens), vocabulary]."""
        c, w = self.c, self.w
        heads, kv_heads, size = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        x = w["model.embed_tokens.weight"][np.asarray(tokens)].astype(np.float64)
        n = len(tokens)
        mask = np.where(np.tril(np.ones((n, n))) > 0, 0.0, -np.inf)
        for layer in range(c["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            h = self._norm(x, p + "input_layernorm.weight")
            q = self._linear(h, p + "self_attn.q_proj").reshape(n, heads, size)
            k = self._linear(h, p + "self_attn.k_proj").reshape(n, kv_heads, size)
            v = self._linear(h, p + "self_attn.v_proj").reshape(n, kv_heads, size)
            if c["model_type"] == "qwen3":
                q, k = self._norm(q, p + "self_attn.q_norm.weight"), self._norm(k, p + "self_attn.k_norm.weight")
            q, k = self._rotate(q), self._rotate(k)
            k, v = (np.repeat(one, heads // kv_heads, axis=1) for one in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(size) + mask
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            x = x + self._linear(np.einsum("hqk,khd->qhd", scores, v).reshape(n, -1), p + "self_attn.o_proj")
            h = self._norm(x, p + "post_attention_layernorm.weight")
            gate, up = self._linear(h, p + "mlp.gate_proj"), self._linear(h, p + "mlp.up_proj")
            x = x + self._linear(gate / (1 + np.exp(-gate)) * up, p + "mlp.down_proj")
        head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
        return self._norm(x, "model.norm.weight") @ head.T.astype(np.float64)

    def greedy(self, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
        """Return the most likely token at each place of `answer`, given the prompt and the answer before that place.

        It equals `answer` exactly if `answer` is what greedy decoding gives.
        """
        return [int(row.argmax()) for row in self.logits([*prompt, *answer[:-1]])[len(prompt) - 1 :]]

    def _linear(self, x: Floats, name: str) -> Floats:
        out = x @ self.w[f"{name}.weight"].T.astype(np.float64)
        return out + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else out

    def _norm(self, x: Floats, name: str) -> Floats:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.c["rms_norm_eps"]) * self.w[name]

    def _rotate(self, x: Floats) -> Floats:
        size = x.shape[-1]
        angles = np.outer(np.arange(len(x)), self._frequencies(size))[:, None]
        a, b = x[..., : size // 2], x[..., size // 2 :]
        return np.concatenate(
            [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1
        )

    def _frequencies(self, size: int) -> Floats:
        plain = self.c["rope_theta"] ** (-np.arange(0, size, 2) / size)
        scaling = self.c.get("rope_scaling") or {"rope_type": "default"}
        if scaling["rope_type"] == "linear":
            return plain / scaling["factor"]
        if scaling["rope_type"] == "llama3":
            return np.array([self._llama3(one, scaling) for one in plain])
        return plain

    @staticmethod
    def _llama3(frequency: float, s: Mapping[str, Any]) -> float:
        wave, old = 2 * math.pi / frequency, s["original_max_position_embeddings"]
        if wave < old / s["high_freq_factor"]:
            return frequency
        if wave > old / s["low_freq_factor"]:
            return frequency / s["factor"]
        smooth = (old / wave - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
        return (1 - smooth) * frequency / s["factor"] + smooth * frequency

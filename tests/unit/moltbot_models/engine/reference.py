"""A plain numpy forward of the families, one sequence at a time, without cache or batching."""

from __future__ import annotations

import math

import numpy as np


class Reference:
    def __init__(self, config, weights):
        self.c, self.w = config, weights

    def logits(self, tokens):
        """Return logits [len(tokens), vocabulary]."""
        c, w = self.c, self.w
        heads, kv_heads, size = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        x = w["model.embed_tokens.weight"][np.asarray(tokens)].astype(np.float64)
        n = len(tokens)
        mask = np.where(np.tril(np.ones((n, n))) > 0, 0.0, -np.inf)
        for layer in range(c["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            h = self.norm(x, p + "input_layernorm.weight")
            q = self.linear(h, p + "self_attn.q_proj").reshape(n, heads, size)
            k = self.linear(h, p + "self_attn.k_proj").reshape(n, kv_heads, size)
            v = self.linear(h, p + "self_attn.v_proj").reshape(n, kv_heads, size)
            if c["model_type"] == "qwen3":
                q, k = self.norm(q, p + "self_attn.q_norm.weight"), self.norm(k, p + "self_attn.k_norm.weight")
            q, k = self.rotate(q), self.rotate(k)
            k, v = (np.repeat(one, heads // kv_heads, axis=1) for one in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(size) + mask
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            x = x + self.linear(np.einsum("hqk,khd->qhd", scores, v).reshape(n, -1), p + "self_attn.o_proj")
            h = self.norm(x, p + "post_attention_layernorm.weight")
            gate, up = self.linear(h, p + "mlp.gate_proj"), self.linear(h, p + "mlp.up_proj")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, p + "mlp.down_proj")
        head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
        return self.norm(x, "model.norm.weight") @ head.T.astype(np.float64)

    def greedy(self, prompt, count):
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tokens[len(prompt) :]

    def linear(self, x, name):
        out = x @ self.w[f"{name}.weight"].T.astype(np.float64)
        return out + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else out

    def norm(self, x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.c["rms_norm_eps"]) * self.w[name]

    def rotate(self, x):
        size = x.shape[-1]
        angles = np.outer(np.arange(len(x)), self.frequencies(size))[:, None]
        a, b = x[..., : size // 2], x[..., size // 2 :]
        return np.concatenate(
            [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1
        )

    def frequencies(self, size):
        plain = self.c["rope_theta"] ** (-np.arange(0, size, 2) / size)
        scaling = self.c.get("rope_scaling") or {"rope_type": "default"}
        if scaling["rope_type"] == "linear":
            return plain / scaling["factor"]
        if scaling["rope_type"] == "llama3":
            return np.array([self.llama3(one, scaling) for one in plain])
        return plain

    @staticmethod
    def llama3(frequency, s):
        wave, old = 2 * math.pi / frequency, s["original_max_position_embeddings"]
        if wave < old / s["high_freq_factor"]:
            return frequency
        if wave > old / s["low_freq_factor"]:
            return frequency / s["factor"]
        smooth = (old / wave - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
        return (1 - smooth) * frequency / s["factor"] + smooth * frequency

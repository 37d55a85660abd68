"""Builds a CLIP or SigLIP vision tower and LLaVA's projector as an OpenVINO graph, node by node.

Source: Radford et al. 2021, CLIP, arXiv:2103.00020; Zhai et al. 2023, SigLIP, arXiv:2303.15343.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino.op import Constant

from moltbot_models.engine.weights import Matrix

if TYPE_CHECKING:
    from openvino import Node

    from moltbot_models.engine.safetensors import Checkpoint
    from moltbot_models.vision.shape import Activation, VisionShape

_QUICK_GELU = np.float32(1.702)
_TOWER = "vision_tower"


def build_vision_graph(shape: VisionShape, checkpoint: Checkpoint, precision: Literal["f32", "bf16"]) -> ov.Model:
    """Return a model from `pixels` (f32 [images, 3, edge, edge]) to `rows` (f32 [images, tokens, text hidden]).

    Args:
        shape: The numbers of config.json.
        checkpoint: The tensors.
        precision: In which the matrices are kept.

    Raises:
        EngineError: `MODEL_INVALID` if the checkpoint does not hold what config.json describes.
    """
    return _Builder(shape, checkpoint, precision).model()


class _Builder:
    def __init__(self, shape: VisionShape, checkpoint: Checkpoint, precision: Literal["f32", "bf16"]) -> None:
        self._s = shape
        self._checkpoint = checkpoint
        self._precision: Literal["f32", "bf16"] = precision

    def model(self) -> ov.Model:
        s = self._s
        pixels = ops.parameter([-1, 3, s.image_size, s.image_size], ov.Type.f32)
        pixels.output(0).get_tensor().set_names({"pixels"})
        states = [self._embedded(pixels)]
        for layer in range(s.layers):
            states.append(self._layer(f"{_TOWER}.encoder.layers.{layer}", states[-1]))
        taken = [states[place] for place in s.features]
        if s.drops_first:
            bounds = [ops.constant(np.array([number])) for number in (1, 2**63 - 1, 1, 1)]
            taken = [ops.slice(state, *bounds) for state in taken]
        wide = s.hidden * len(taken)
        joined = taken[0] if len(taken) == 1 else ops.concat(taken, axis=-1)
        inner = self._linear(joined, "multi_modal_projector.linear_1", s.text_hidden, wide, bias=s.projector_bias)
        inner = _activated(inner, s.projector_activation)
        rows = self._linear(
            inner, "multi_modal_projector.linear_2", s.text_hidden, s.text_hidden, bias=s.projector_bias
        )
        rows.output(0).get_tensor().set_names({"rows"})
        return ov.Model([rows], [pixels], "vision")  # pyright: ignore[reportGeneralTypeIssues] - its stub binds self wrongly

    def _embedded(self, pixels: Node) -> Node:
        s, at = self._s, f"{_TOWER}.embeddings"
        edge = s.patch_size
        kernel = self._values(f"{at}.patch_embedding.weight", s.hidden, 3, edge, edge)
        grid = ops.convolution(pixels, Constant(kernel), [edge, edge], [0, 0], [0, 0], [1, 1])
        flat = ops.reshape(grid, ops.constant(np.array([0, s.hidden, s.patches])), special_zero=True)
        patches = ops.transpose(flat, ops.constant(np.array([0, 2, 1])))
        places = self._values(f"{at}.position_embedding.weight", s.positions, s.hidden)
        if s.tower == "siglip":
            return ops.add(patches, Constant(places + self._values(f"{at}.patch_embedding.bias", s.hidden)))
        first = self._values(f"{at}.class_embedding", s.hidden) + places[0]
        images = ops.gather(ops.shape_of(pixels), ops.constant(np.array([0])), ops.constant(np.int64(0)))
        shape = ops.concat([images, ops.constant(np.array([1, s.hidden]))], axis=0)
        whole = ops.concat(
            [ops.broadcast(Constant(first.reshape(1, 1, -1)), shape), ops.add(patches, Constant(places[1:]))], axis=1
        )
        return self._norm(whole, f"{_TOWER}.pre_layrnorm")

    def _layer(self, at: str, hidden: Node) -> Node:
        s = self._s
        normed = self._norm(hidden, f"{at}.layer_norm1")
        query, key, value = (
            self._heads(self._linear(normed, f"{at}.self_attn.{part}_proj", s.hidden, s.hidden)) for part in "qkv"
        )
        mixed = ops.transpose(ops.scaled_dot_product_attention(query, key, value), ops.constant(np.array([0, 2, 1, 3])))
        joined = ops.reshape(mixed, ops.constant(np.array([0, 0, s.hidden])), special_zero=True)
        hidden = ops.add(hidden, self._linear(joined, f"{at}.self_attn.out_proj", s.hidden, s.hidden))
        normed = self._norm(hidden, f"{at}.layer_norm2")
        inner = _activated(self._linear(normed, f"{at}.mlp.fc1", s.intermediate, s.hidden), s.activation)
        return ops.add(hidden, self._linear(inner, f"{at}.mlp.fc2", s.hidden, s.intermediate))

    def _heads(self, flat: Node) -> Node:
        heads = self._s.heads
        split = ops.reshape(flat, ops.constant(np.array([0, 0, heads, self._s.hidden // heads])), special_zero=True)
        return ops.transpose(split, ops.constant(np.array([0, 2, 1, 3])))

    def _linear(self, x: Node, name: str, rows: int, columns: int, *, bias: bool = True) -> Node:
        weight = Matrix(self._checkpoint.tensor(f"{name}.weight", (rows, columns)), self._precision).factor()
        out = ops.matmul(x, weight, transpose_a=False, transpose_b=True)
        return ops.add(out, Constant(self._values(f"{name}.bias", rows))) if bias else out

    def _norm(self, x: Node, name: str) -> Node:
        s = self._s
        unit = ops.mvn(
            x, ops.constant(np.array([-1])), normalize_variance=True, eps=s.norm_epsilon, eps_mode="INSIDE_SQRT"
        )
        scaled = ops.multiply(unit, Constant(self._values(f"{name}.weight", s.hidden)))
        return ops.add(scaled, Constant(self._values(f"{name}.bias", s.hidden)))

    def _values(self, name: str, *shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return self._checkpoint.tensor(name, shape).to_f32()


def _activated(x: Node, name: Activation) -> Node:
    if name == "quick_gelu":
        return ops.swish(x, ops.constant(_QUICK_GELU))
    return ops.gelu(x, "tanh" if name == "gelu_pytorch_tanh" else "erf")

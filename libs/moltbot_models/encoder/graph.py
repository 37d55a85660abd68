"""Builds a BERT encoder with mean pooling as an OpenVINO graph, node by node.

Source: Devlin et al. 2019, BERT, arXiv:1810.04805; Reimers and Gurevych 2019, Sentence-BERT, arXiv:1908.10084.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino.op import Constant

from moltbot_models.encoder.checkpoint import EncoderError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openvino import Node

    from moltbot_models.encoder.checkpoint import EncoderCheckpoint

_LAST_AXIS = -1


@dataclass(frozen=True, slots=True)
class BertShape:
    """The numbers of config.json that the graph needs."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    positions: int
    norm_epsilon: float

    @classmethod
    def of(cls, config: Mapping[str, object]) -> BertShape:
        """Read config.json.

        Raises:
            EncoderError: It is not a BERT encoder of the kind that is built here.
        """
        if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
            raise EncoderError("config.json: only BERT encoders with the gelu activation are built")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise EncoderError("config.json: only absolute position embeddings are built")

        def number(key: str) -> int:
            value = config.get(key)
            if not isinstance(value, int) or value < 1:
                raise EncoderError(f"config.json: {key} must be a positive integer")
            return value

        epsilon = config.get("layer_norm_eps")
        shape = cls(
            hidden=number("hidden_size"),
            intermediate=number("intermediate_size"),
            layers=number("num_hidden_layers"),
            heads=number("num_attention_heads"),
            vocabulary=number("vocab_size"),
            positions=number("max_position_embeddings"),
            norm_epsilon=float(epsilon) if isinstance(epsilon, float) else 1e-12,
        )
        if shape.hidden % shape.heads:
            raise EncoderError("config.json: hidden_size must be a multiple of num_attention_heads")
        return shape


def build_graph(shape: BertShape, checkpoint: EncoderCheckpoint) -> ov.Model:
    """Return a model from `input_ids` and `attention_mask` (i64 [texts, length]) to `embedding` (f32 [texts, hidden]).

    Raises:
        EncoderError: The checkpoint does not hold what config.json describes.
    """
    return _Builder(shape, checkpoint).model()


class _Builder:
    def __init__(self, shape: BertShape, checkpoint: EncoderCheckpoint) -> None:
        self._s = shape
        self._checkpoint = checkpoint

    def model(self) -> ov.Model:
        ids = ops.parameter([-1, -1], ov.Type.i64)
        mask = ops.parameter([-1, -1], ov.Type.i64)
        for node, name in ((ids, "input_ids"), (mask, "attention_mask")):
            node.output(0).get_tensor().set_names({name})
        # [texts, 1, 1, length]: every query sees the keys that are text.
        visible = ops.unsqueeze(ops.convert(mask, ov.Type.boolean), ops.constant(np.array([1, 2])))
        hidden = self._embedded(ids)
        for layer in range(self._s.layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, visible)
        out = _normalised(_mean(hidden, mask))
        out.output(0).get_tensor().set_names({"embedding"})
        return ov.Model([out], [ids, mask], "bert")  # pyright: ignore[reportGeneralTypeIssues] - its stub binds self wrongly

    def _embedded(self, ids: Node) -> Node:
        s, zero = self._s, ops.constant(np.int64(0))
        words = Constant(self._checkpoint.tensor("embeddings.word_embeddings.weight", s.vocabulary, s.hidden))
        places = self._checkpoint.tensor("embeddings.position_embeddings.weight", s.positions, s.hidden)
        kinds = self._checkpoint.tensor("embeddings.token_type_embeddings.weight", 2, s.hidden)
        length = ops.gather(ops.shape_of(ids), ops.constant(np.array([1])), zero)
        # One text alone is always of kind 0, so its row is folded into the positions.
        begin, step = ops.constant(np.array([0])), ops.constant(np.array([1]))
        position = ops.slice(Constant(places + kinds[0]), begin, length, step, ops.constant(np.array([0])))
        return self._norm(ops.add(ops.gather(words, ids, zero), position), "embeddings.LayerNorm")

    def _layer(self, name: str, hidden: Node, visible: Node) -> Node:
        s = self._s
        query, key, value = (
            self._heads(self._linear(hidden, f"{name}.attention.self.{part}", s.hidden, s.hidden))
            for part in ("query", "key", "value")
        )
        mixed = ops.scaled_dot_product_attention(query, key, value, visible)
        joined = ops.reshape(
            ops.transpose(mixed, ops.constant(np.array([0, 2, 1, 3]))),
            ops.constant(np.array([0, 0, s.hidden])),
            special_zero=True,
        )
        out = self._linear(joined, f"{name}.attention.output.dense", s.hidden, s.hidden)
        hidden = self._norm(ops.add(hidden, out), f"{name}.attention.output.LayerNorm")
        inner = ops.gelu(self._linear(hidden, f"{name}.intermediate.dense", s.intermediate, s.hidden), "erf")
        out = self._linear(inner, f"{name}.output.dense", s.hidden, s.intermediate)
        return self._norm(ops.add(hidden, out), f"{name}.output.LayerNorm")

    def _heads(self, flat: Node) -> Node:
        size = self._s.hidden // self._s.heads
        split = ops.reshape(flat, ops.constant(np.array([0, 0, self._s.heads, size])), special_zero=True)
        return ops.transpose(split, ops.constant(np.array([0, 2, 1, 3])))

    def _linear(self, x: Node, name: str, rows: int, columns: int) -> Node:
        weight = Constant(self._checkpoint.tensor(f"{name}.weight", rows, columns))
        bias = Constant(self._checkpoint.tensor(f"{name}.bias", rows))
        return ops.add(ops.matmul(x, weight, transpose_a=False, transpose_b=True), bias)

    def _norm(self, x: Node, name: str) -> Node:
        axes = ops.constant(np.array([_LAST_AXIS]))
        unit = ops.mvn(x, axes, normalize_variance=True, eps=self._s.norm_epsilon, eps_mode="INSIDE_SQRT")
        weight = Constant(self._checkpoint.tensor(f"{name}.weight", self._s.hidden))
        return ops.add(ops.multiply(unit, weight), Constant(self._checkpoint.tensor(f"{name}.bias", self._s.hidden)))


def _mean(hidden: Node, mask: Node) -> Node:
    """The mean of the vectors of real tokens: [texts, length, hidden] → [texts, hidden]."""
    axis = ops.constant(np.array([1]))
    weight = ops.unsqueeze(ops.convert(mask, ov.Type.f32), ops.constant(np.array([2])))
    total = ops.reduce_sum(ops.multiply(hidden, weight), axis, keep_dims=False)
    return ops.divide(total, ops.maximum(ops.reduce_sum(weight, axis, keep_dims=False), np.float32(1e-9)))


def _normalised(x: Node) -> Node:
    square = ops.reduce_sum(ops.multiply(x, x), ops.constant(np.array([_LAST_AXIS])), keep_dims=True)
    return ops.divide(x, ops.maximum(ops.sqrt(square), np.float32(1e-12)))

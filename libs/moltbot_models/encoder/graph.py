"""Builds a BERT or RoBERTa encoder as an OpenVINO graph, node by node.

Source: Devlin et al. 2019, BERT, arXiv:1810.04805; Liu et al. 2019, RoBERTa, arXiv:1907.11692; Reimers and Gurevych
2019, Sentence-BERT, arXiv:1908.10084; Xiao et al. 2023, SmoothQuant, arXiv:2211.10438 (scales per channel).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino.op import Constant

from moltbot_models.encoder.processor import INT8_MAX, largest_weight
from moltbot_models.encoder.quantized import quantized_linear

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openvino import Node

    from moltbot_models.encoder.checkpoint import EncoderCheckpoint
    from moltbot_models.encoder.quantized import LinearRange
    from moltbot_models.encoder.shape import EncoderShape

_LAST_AXIS = -1


def build_graph(
    shape: EncoderShape,
    checkpoint: EncoderCheckpoint,
    *,
    ranges: Mapping[str, LinearRange] | None = None,
    taps: bool = False,
) -> ov.Model:
    """Return a model from `words` (f32 [texts, length, hidden]) and `attention_mask` (i64 [texts, length]).

    The words' embeddings are looked up outside (`EncoderRuntime`), so that their table stays in its file: it is half of
    a small model, and of it a few rows are used. Pairs have `token_type_ids` too. The output is `embedding` (f32
    [texts, hidden], of length 1) or, for a head that classifies, `logits` (f32 [texts, labels]).

    Args:
        shape: The numbers of config.json.
        checkpoint: The tensors.
        ranges: By group of linear layers that share their input, for those that shall run in INT8.
        taps: The inputs of the groups are outputs too, under the groups' names.

    Raises:
        EncoderError: The checkpoint does not hold what config.json describes.
    """
    return _Builder(shape, checkpoint, ranges or {}).model(taps=taps)


class _Builder:
    def __init__(self, shape: EncoderShape, checkpoint: EncoderCheckpoint, ranges: Mapping[str, LinearRange]) -> None:
        self._s = shape
        self._checkpoint = checkpoint
        self._ranges = ranges
        self._taps: list[Node] = []

    def model(self, *, taps: bool) -> ov.Model:
        words = ops.parameter([-1, -1, self._s.hidden], ov.Type.f32)
        mask = ops.parameter([-1, -1], ov.Type.i64)
        inputs = {"words": words, "attention_mask": mask}
        if self._s.takes_kinds:
            inputs["token_type_ids"] = ops.parameter([-1, -1], ov.Type.i64)
        for name, node in inputs.items():
            node.output(0).get_tensor().set_names({name})
        # [texts, 1, 1, length]: every query sees the keys that are text.
        visible = ops.unsqueeze(ops.convert(mask, ov.Type.boolean), ops.constant(np.array([1, 2])))
        hidden = self._embedded(words, mask, inputs.get("token_type_ids"))
        for layer in range(self._s.layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, visible)
        out = self._logits(hidden) if self._s.labels else self._vector(hidden, mask)
        out.output(0).get_tensor().set_names({"logits" if self._s.labels else "embedding"})
        results = [out, *(self._taps if taps else ())]
        return ov.Model(results, list(inputs.values()), "encoder")  # pyright: ignore[reportGeneralTypeIssues] - its stub binds self wrongly

    def _embedded(self, words: Node, mask: Node, kinds: Node | None) -> Node:
        s, zero = self._s, ops.constant(np.int64(0))
        places = self._checkpoint.tensor("embeddings.position_embeddings.weight", s.positions, s.hidden)
        places = places[s.first_position :]
        of_kind = self._checkpoint.tensor("embeddings.token_type_embeddings.weight", s.kinds, s.hidden)
        if kinds is None:
            # One text alone is always of kind 0, so its row is folded into the positions.
            places = places + of_kind[0]
        length = ops.gather(ops.shape_of(mask), ops.constant(np.array([1])), zero)
        begin, step = ops.constant(np.array([0])), ops.constant(np.array([1]))
        position = ops.slice(Constant(places), begin, length, step, ops.constant(np.array([0])))
        total = ops.add(words, position)
        if kinds is not None:
            total = ops.add(total, ops.gather(Constant(of_kind), kinds, zero))
        return self._norm(total, "embeddings.LayerNorm")

    def _layer(self, name: str, hidden: Node, visible: Node) -> Node:
        s, wide = self._s, self._s.intermediate
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        found = self._linears(hidden, f"{name}.attention.self", parts, s.hidden, s.hidden)
        mixed = ops.scaled_dot_product_attention(*(self._heads(part) for part in found), visible)
        joined = ops.reshape(
            ops.transpose(mixed, ops.constant(np.array([0, 2, 1, 3]))),
            ops.constant(np.array([0, 0, s.hidden])),
            special_zero=True,
        )
        out = self._linear(joined, f"{name}.attention.output.dense", s.hidden, s.hidden)
        hidden = self._norm(ops.add(hidden, out), f"{name}.attention.output.LayerNorm")
        inner = ops.gelu(self._linear(hidden, f"{name}.intermediate.dense", wide, s.hidden), "erf")
        out = self._linear(inner, f"{name}.output.dense", s.hidden, wide)
        return self._norm(ops.add(hidden, out), f"{name}.output.LayerNorm")

    def _heads(self, flat: Node) -> Node:
        size = self._s.hidden // self._s.heads
        split = ops.reshape(flat, ops.constant(np.array([0, 0, self._s.heads, size])), special_zero=True)
        return ops.transpose(split, ops.constant(np.array([0, 2, 1, 3])))

    def _linear(self, x: Node, name: str, rows: int, columns: int) -> Node:
        return self._linears(x, name, [name], rows, columns)[0]

    def _linears(self, x: Node, group: str, names: list[str], rows: int, columns: int) -> list[Node]:
        """Linear layers that share their input, and so its quantisation."""
        tap = ops.result(x)
        tap.output(0).get_tensor().add_names({group})
        self._taps.append(tap)
        span = self._ranges.get(group)
        if span is None:
            return [self._plain(x, name, rows, columns) for name in names]
        weights = [self._checkpoint.tensor(f"{name}.weight", rows, columns) for name in names]
        biases = [self._checkpoint.tensor(f"{name}.bias", rows) for name in names]
        centred = ops.add(ops.multiply(x, Constant(1 / span.scale)), Constant(-span.shift / span.scale))
        low, high = np.float32(-span.bound * (INT8_MAX + 1) / INT8_MAX), np.float32(span.bound)
        whole = ops.fake_quantize(centred, low, high, low, high, 256)
        made: list[Node] = []
        for weight, bias in zip(weights, biases, strict=True):
            codes, steps, corrected = quantized_linear(weight, bias, span, largest_weight())
            matrix = ops.multiply(ops.convert(Constant(codes), ov.Type.f32), Constant(steps))
            made.append(ops.add(ops.matmul(whole, matrix, transpose_a=False, transpose_b=True), Constant(corrected)))
        return made

    def _norm(self, x: Node, name: str) -> Node:
        axes = ops.constant(np.array([_LAST_AXIS]))
        unit = ops.mvn(x, axes, normalize_variance=True, eps=self._s.norm_epsilon, eps_mode="INSIDE_SQRT")
        weight = Constant(self._checkpoint.tensor(f"{name}.weight", self._s.hidden))
        return ops.add(ops.multiply(unit, weight), Constant(self._checkpoint.tensor(f"{name}.bias", self._s.hidden)))

    def _vector(self, hidden: Node, mask: Node) -> Node:
        return _normalised(_mean(hidden, mask) if self._s.pooling == "mean" else _first(hidden))

    def _logits(self, hidden: Node) -> Node:
        """The head of `*ForSequenceClassification`."""
        s, first = self._s, _first(hidden)
        dense, out = "classifier.dense", "classifier.out_proj"
        if s.family == "bert":
            dense, out = "pooler.dense", "classifier"
        pooled = ops.tanh(self._plain(first, dense, s.hidden, s.hidden))
        return self._plain(pooled, out, s.labels, s.hidden)

    def _plain(self, x: Node, name: str, rows: int, columns: int) -> Node:
        # Not copied: OpenVINO keeps a form of its own beside it, and reads this one where a new shape wants another.
        weight = Constant(self._checkpoint.matrix(f"{name}.weight", rows, columns), shared_memory=True)
        bias = Constant(self._checkpoint.tensor(f"{name}.bias", rows))
        return ops.add(ops.matmul(x, weight, transpose_a=False, transpose_b=True), bias)


def _first(hidden: Node) -> Node:
    """The vector of the first token: [texts, length, hidden] → [texts, hidden]."""
    return ops.gather(hidden, ops.constant(np.int64(0)), ops.constant(np.int64(1)))


def _mean(hidden: Node, mask: Node) -> Node:
    """The mean of the vectors of real tokens: [texts, length, hidden] → [texts, hidden]."""
    axis = ops.constant(np.array([1]))
    weight = ops.unsqueeze(ops.convert(mask, ov.Type.f32), ops.constant(np.array([2])))
    total = ops.reduce_sum(ops.multiply(hidden, weight), axis, keep_dims=False)
    return ops.divide(total, ops.maximum(ops.reduce_sum(weight, axis, keep_dims=False), np.float32(1e-9)))


def _normalised(x: Node) -> Node:
    square = ops.reduce_sum(ops.multiply(x, x), ops.constant(np.array([_LAST_AXIS])), keep_dims=True)
    return ops.divide(x, ops.maximum(ops.sqrt(square), np.float32(1e-12)))

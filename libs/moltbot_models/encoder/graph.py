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
    """Return a model of the inputs that `runs.packed` makes: tokens of several texts, one behind another.

    They are `words` (f32 [tokens, hidden]), `positions` in their texts (i64 [tokens]) and, for pairs, `token_type_ids`
    (i64 [tokens]). The attention alone sees texts beside each other: `token_at` (i64 [texts, length]) says which token
    stands at a place, `attention_mask` (i64 [texts, length]) whether one does, and `place_of` (i64 [tokens]) where a
    token stands, counted over all places.

    The words' embeddings are looked up outside (`EncoderRuntime`), so that their table stays in its file: it is half of
    a small model, and of it a few rows are used. The output is `embedding` (f32 [texts, hidden], of length 1) or, for a
    head that classifies, `logits` (f32 [texts, labels]).

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
        self._words = ops.parameter([-1, shape.hidden], ov.Type.f32)
        self._positions, self._kinds, self._place_of = (ops.parameter([-1], ov.Type.i64) for _ in range(3))
        self._mask, self._token_at = (ops.parameter([-1, -1], ov.Type.i64) for _ in range(2))

    def model(self, *, taps: bool) -> ov.Model:
        inputs = {
            "words": self._words,
            "positions": self._positions,
            "attention_mask": self._mask,
            "token_at": self._token_at,
            "place_of": self._place_of,
        }
        if self._s.takes_kinds:
            inputs["token_type_ids"] = self._kinds
        for name, node in inputs.items():
            node.output(0).get_tensor().set_names({name})
        # [texts, 1, 1, length]: every query sees the keys that are text.
        visible = ops.unsqueeze(ops.convert(self._mask, ov.Type.boolean), ops.constant(np.array([1, 2])))
        hidden = self._embedded()
        for layer in range(self._s.layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, visible)
        out = self._logits(hidden) if self._s.labels else self._vector(hidden)
        out.output(0).get_tensor().set_names({"logits" if self._s.labels else "embedding"})
        results = [out, *(self._taps if taps else ())]
        return ov.Model(results, list(inputs.values()), "encoder")  # pyright: ignore[reportGeneralTypeIssues] - its stub binds self wrongly

    def _embedded(self) -> Node:
        s = self._s
        places = self._checkpoint.tensor("embeddings.position_embeddings.weight", s.positions, s.hidden)
        places = places[s.first_position :]
        of_kind = self._checkpoint.tensor("embeddings.token_type_embeddings.weight", s.kinds, s.hidden)
        if not s.takes_kinds:
            # One text alone is always of kind 0, so its row is folded into the positions.
            places = places + of_kind[0]
        total = ops.add(self._words, _rows(Constant(places), self._positions))
        if s.takes_kinds:
            total = ops.add(total, _rows(Constant(of_kind), self._kinds))
        return self._norm(total, "embeddings.LayerNorm")

    def _layer(self, name: str, hidden: Node, visible: Node) -> Node:
        s, wide = self._s, self._s.intermediate
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        found = self._linears(hidden, f"{name}.attention.self", parts, s.hidden, s.hidden)
        mixed = ops.scaled_dot_product_attention(*(self._heads(part) for part in found), visible)
        beside = ops.transpose(mixed, ops.constant(np.array([0, 2, 1, 3])))
        places = ops.reshape(beside, ops.constant(np.array([-1, s.hidden])), special_zero=False)
        joined = _rows(places, self._place_of)
        out = self._linear(joined, f"{name}.attention.output.dense", s.hidden, s.hidden)
        hidden = self._norm(ops.add(hidden, out), f"{name}.attention.output.LayerNorm")
        inner = ops.gelu(self._linear(hidden, f"{name}.intermediate.dense", wide, s.hidden), "erf")
        out = self._linear(inner, f"{name}.output.dense", s.hidden, wide)
        return self._norm(ops.add(hidden, out), f"{name}.output.LayerNorm")

    def _heads(self, flat: Node) -> Node:
        """[tokens, hidden] → [texts, heads, length, size]."""
        size = self._s.hidden // self._s.heads
        beside = _rows(flat, self._token_at)
        split = ops.reshape(beside, ops.constant(np.array([0, 0, self._s.heads, size])), special_zero=True)
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

    def _vector(self, hidden: Node) -> Node:
        pooled = self._mean(hidden) if self._s.pooling == "mean" else self._first(hidden)
        return _normalised(pooled)

    def _first(self, hidden: Node) -> Node:
        """The vector of the first token of each text: [tokens, hidden] → [texts, hidden]."""
        return _rows(hidden, ops.gather(self._token_at, ops.constant(np.int64(0)), ops.constant(np.int64(1))))

    def _mean(self, hidden: Node) -> Node:
        """The mean of the vectors of each text's tokens: [tokens, hidden] → [texts, hidden]."""
        axis = ops.constant(np.array([1]))
        weight = ops.unsqueeze(ops.convert(self._mask, ov.Type.f32), ops.constant(np.array([2])))
        total = ops.reduce_sum(ops.multiply(_rows(hidden, self._token_at), weight), axis, keep_dims=False)
        return ops.divide(total, ops.maximum(ops.reduce_sum(weight, axis, keep_dims=False), np.float32(1e-9)))

    def _logits(self, hidden: Node) -> Node:
        """The head of `*ForSequenceClassification`."""
        s, first = self._s, self._first(hidden)
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


def _rows(table: Node, numbers: Node) -> Node:
    """Rows of a matrix by their numbers: [..., numbers' shape, columns]."""
    return ops.gather(table, numbers, ops.constant(np.int64(0)))


def _normalised(x: Node) -> Node:
    square = ops.reduce_sum(ops.multiply(x, x), ops.constant(np.array([_LAST_AXIS])), keep_dims=True)
    return ops.divide(x, ops.maximum(ops.sqrt(square), np.float32(1e-12)))

"""A BERT or RoBERTa encoder as ONNX, in FP32 or with INT8 layers in the QDQ form that TensorRT reads.

It is the graph of `moltbot_models.encoder.graph`, but for the words' table, which is in it. A quantised layer has its
activations brought to like size and centred (see `encoder.quantized`), then a symmetric QuantizeLinear and
DequantizeLinear; its weights are INT8 with one scale a row.

Source: ONNX operators, opset 17; NVIDIA TensorRT, Working with Quantized Types, explicit quantization.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moltbot_mesh.errors import FailedPrecondition
from moltbot_models.encoder.processor import INT8_MAX
from moltbot_models.encoder.quantized import quantized_linear

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from moltbot_models.encoder.checkpoint import EncoderCheckpoint
    from moltbot_models.encoder.classifier import Activation
    from moltbot_models.encoder.quantized import LinearRange
    from moltbot_models.encoder.shape import EncoderShape

OPSET, _IR_VERSION = 17, 8
_MASKED = -1e9


def onnx_module() -> Any:
    """The package `onnx`, which is an extra.

    Raises:
        FailedPrecondition: It is not installed.
    """
    try:
        import onnx  # noqa: PLC0415 - an extra, and half a second
    except ImportError:
        raise FailedPrecondition(
            "compiling for TensorRT needs onnx and onnxruntime, the extra `compile`: in a checkout "
            "`./moltbot --setup-dev` installs them, else pip install 'moltbot[compile]'"
        ) from None
    return onnx


def build_onnx(
    shape: EncoderShape,
    checkpoint: EncoderCheckpoint,
    ranges: Mapping[str, LinearRange] | None = None,
    activation: Activation = "identity",
) -> Any:
    """Return an `onnx.ModelProto` from `input_ids` and `attention_mask`, i64 [texts, length].

    Pairs have `token_type_ids` too. The output is `embedding` (f32 [texts, hidden], of length 1) or `scores`
    (f32 [texts, labels]).

    Args:
        shape: The numbers of config.json.
        checkpoint: The tensors.
        ranges: By group of linear layers that share their input, for those that shall run in INT8.
        activation: What makes scores of logits.

    Raises:
        FailedPrecondition: The extra `compile` is not installed.
        EncoderError: The checkpoint does not hold what config.json describes.
    """
    return _Writer(onnx_module(), shape, checkpoint, ranges or {}).model(activation)


class _Writer:
    def __init__(
        self, onnx: Any, shape: EncoderShape, checkpoint: EncoderCheckpoint, ranges: Mapping[str, LinearRange]
    ) -> None:
        self._onnx, self._s, self._checkpoint, self._ranges = onnx, shape, checkpoint, ranges
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def model(self, activation: Activation) -> Any:
        onnx, s = self._onnx, self._s
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if s.takes_kinds else [])]
        real = self._node("Cast", "attention_mask", to=onnx.TensorProto.FLOAT)
        hidden = self._embedded()
        missing = self._node("Mul", self._node("Sub", self._constant(1.0), real), self._constant(_MASKED))
        bias = self._node("Unsqueeze", missing, self._constant([1, 2], np.int64))
        for layer in range(s.layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, bias)
        last = self._scores(hidden, activation) if s.labels else self._vector(hidden, real)
        name, width = ("scores", s.labels) if s.labels else ("embedding", s.hidden)
        self._nodes.append(onnx.helper.make_node("Identity", [last], [name]))
        integers = [
            onnx.helper.make_tensor_value_info(one, onnx.TensorProto.INT64, ["texts", "length"]) for one in names
        ]
        out = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["texts", width])
        graph = onnx.helper.make_graph(self._nodes, "encoder", integers, [out], list(self._constants.values()))
        opset = [onnx.helper.make_opsetid("", OPSET)]
        made = onnx.helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION, producer_name="moltbot")
        onnx.checker.check_model(made)
        return made

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        out = f"{kind}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out

    def _constant(self, value: object, dtype: type[np.generic] = np.float32) -> str:
        array = np.asarray(value, dtype)
        return self._kept(f"constant_{array.dtype}_{array.tolist()}", array)

    def _kept(self, name: str, array: NDArray[Any]) -> str:
        if name not in self._constants:
            self._constants[name] = self._onnx.numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def _embedded(self) -> str:
        s, prefix = self._s, "embeddings"
        table = self._checkpoint.tensor(f"{prefix}.word_embeddings.weight", s.vocabulary, s.hidden)
        places = self._checkpoint.tensor(f"{prefix}.position_embeddings.weight", s.positions, s.hidden)
        places = places[s.first_position :]
        of_kind = self._checkpoint.tensor(f"{prefix}.token_type_embeddings.weight", s.kinds, s.hidden)
        if not s.takes_kinds:
            places = places + of_kind[0]
        words = self._node("Gather", self._kept("words", table), "input_ids")
        length = self._node("Gather", self._node("Shape", "input_ids"), self._constant([1], np.int64))
        begin, axis = self._constant([0], np.int64), self._constant([0], np.int64)
        where = self._node("Slice", self._kept("places", places), begin, length, axis)
        total = self._node("Add", words, where)
        if s.takes_kinds:
            total = self._node("Add", total, self._node("Gather", self._kept("kinds", of_kind), "token_type_ids"))
        return self._norm(total, f"{prefix}.LayerNorm")

    def _layer(self, name: str, hidden: str, bias: str) -> str:
        s, wide = self._s, self._s.intermediate
        size = s.hidden // s.heads
        attention = f"{name}.attention"
        parts = [f"{attention}.self.{part}" for part in ("query", "key", "value")]
        split = self._constant([0, 0, s.heads, size], np.int64)
        query, key, value = (
            self._node("Transpose", self._node("Reshape", part, split), perm=[0, 2, 1, 3])
            for part in self._linears(hidden, f"{attention}.self", parts, s.hidden, s.hidden)
        )
        product = self._node("MatMul", query, self._node("Transpose", key, perm=[0, 1, 3, 2]))
        scores = self._node("Add", self._node("Mul", product, self._constant(size**-0.5)), bias)
        mixed = self._node("MatMul", self._node("Softmax", scores, axis=-1), value)
        joined = self._constant([0, 0, s.hidden], np.int64)
        mixed = self._node("Reshape", self._node("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
        out = self._linear(mixed, f"{attention}.output.dense", s.hidden, s.hidden)
        hidden = self._norm(self._node("Add", hidden, out), f"{attention}.output.LayerNorm")
        inner = self._linear(hidden, f"{name}.intermediate.dense", wide, s.hidden)
        erf = self._node("Erf", self._node("Mul", inner, self._constant(2**-0.5)))
        half = self._node("Mul", inner, self._constant(0.5))
        inner = self._node("Mul", half, self._node("Add", erf, self._constant(1.0)))
        out = self._linear(inner, f"{name}.output.dense", s.hidden, wide)
        return self._norm(self._node("Add", hidden, out), f"{name}.output.LayerNorm")

    def _linear(self, x: str, name: str, rows: int, columns: int) -> str:
        return self._linears(x, name, [name], rows, columns)[0]

    def _linears(self, x: str, group: str, names: list[str], rows: int, columns: int) -> list[str]:
        """Linear layers that share their input, and so its quantisation."""
        span = self._ranges.get(group)
        if span is None:
            return [self._plain(x, name, rows, columns) for name in names]
        centred = self._node("Mul", x, self._kept(f"{group}.unscale", 1 / span.scale))
        centred = self._node("Sub", centred, self._kept(f"{group}.shift", span.shift / span.scale))
        step, zero = self._constant(span.bound / INT8_MAX), self._constant(0, np.int8)
        coarse = self._node("DequantizeLinear", self._node("QuantizeLinear", centred, step, zero), step, zero)
        made: list[str] = []
        for name in names:
            weight = self._checkpoint.tensor(f"{name}.weight", rows, columns)
            bias = self._checkpoint.tensor(f"{name}.bias", rows)
            codes, steps, corrected = quantized_linear(weight, bias, span)
            steps_name = self._kept(f"{name}.steps", steps.reshape(-1))
            zeros = self._kept(f"{name}.zeros", np.zeros(rows, np.int8))
            matrix = self._node("DequantizeLinear", self._kept(f"{name}.codes", codes.T), steps_name, zeros, axis=1)
            product = self._node("MatMul", coarse, matrix)
            made.append(self._node("Add", product, self._kept(f"{name}.corrected", corrected)))
        return made

    def _plain(self, x: str, name: str, rows: int, columns: int) -> str:
        weight = self._checkpoint.tensor(f"{name}.weight", rows, columns)
        product = self._node("MatMul", x, self._kept(f"{name}.weight", weight.T))
        return self._node("Add", product, self._kept(f"{name}.bias", self._checkpoint.tensor(f"{name}.bias", rows)))

    def _norm(self, x: str, name: str) -> str:
        weight, bias = (
            self._kept(f"{name}.{part}", self._checkpoint.tensor(f"{name}.{part}", self._s.hidden))
            for part in ("weight", "bias")
        )
        return self._node("LayerNormalization", x, weight, bias, axis=-1, epsilon=self._s.norm_epsilon)

    def _first(self, hidden: str) -> str:
        return self._node("Gather", hidden, self._constant(0, np.int64), axis=1)

    def _vector(self, hidden: str, real: str) -> str:
        pooled = self._first(hidden)
        if self._s.pooling == "mean":
            weight = self._node("Unsqueeze", real, self._constant([2], np.int64))
            axis = self._constant([1], np.int64)
            total = self._node("ReduceSum", self._node("Mul", hidden, weight), axis, keepdims=0)
            pooled = self._node("Div", total, self._node("ReduceSum", weight, axis, keepdims=0))
        square = self._node("ReduceSum", self._node("Mul", pooled, pooled), self._constant([-1], np.int64), keepdims=1)
        return self._node("Div", pooled, self._node("Sqrt", square))

    def _scores(self, hidden: str, activation: Activation) -> str:
        logits = self._logits(hidden)
        if activation == "identity":
            return logits
        return self._node("Sigmoid", logits) if activation == "sigmoid" else self._node("Softmax", logits, axis=-1)

    def _logits(self, hidden: str) -> str:
        """The head of `*ForSequenceClassification`."""
        s, dense, out = self._s, "classifier.dense", "classifier.out_proj"
        if s.family == "bert":
            dense, out = "pooler.dense", "classifier"
        pooled = self._node("Tanh", self._plain(self._first(hidden), dense, s.hidden, s.hidden))
        return self._plain(pooled, out, s.labels, s.hidden)

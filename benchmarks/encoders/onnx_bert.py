"""Writes a BERT sentence encoder as a plain FP32 ONNX file, as an export of transformers with mean pooling is.

`onnx_bert.py DIRECTORY FILE`; runs in the baselines' environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file


class Writer:
    """Collects nodes and weights."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._count = 0

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        self._count += 1
        out = f"n{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def constant(self, value: object, dtype: type = np.float32) -> str:
        array = np.asarray(value, dtype)
        return self._kept(f"c_{array.dtype}_{array.tolist()}", array)

    def weight(self, name: str, *, transposed: bool = False) -> str:
        array = self.weights[name].astype(np.float32)
        return self._kept(f"{name}{'.T' if transposed else ''}", np.ascontiguousarray(array.T if transposed else array))

    def _kept(self, name: str, array: np.ndarray) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def linear(self, x: str, name: str) -> str:
        product = self.node("MatMul", x, self.weight(f"{name}.weight", transposed=True))
        return self.node("Add", product, self.weight(f"{name}.bias"))

    def norm(self, x: str, name: str, epsilon: float) -> str:
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon)


def build(directory: Path) -> onnx.ModelProto:
    config = json.loads((directory / "config.json").read_text())
    w = Writer(load_file(directory / "model.safetensors"))
    hidden, heads, epsilon = config["hidden_size"], config["num_attention_heads"], config["layer_norm_eps"]
    size = hidden // heads
    ids, mask = "input_ids", "attention_mask"
    length = w.node("Gather", w.node("Shape", ids), w.constant(1, np.int64))
    places = w.node("Range", w.constant(0, np.int64), length, w.constant(1, np.int64))
    words = w.node("Gather", w.weight("embeddings.word_embeddings.weight"), ids)
    where = w.node("Gather", w.weight("embeddings.position_embeddings.weight"), places)
    kind = w.node("Gather", w.weight("embeddings.token_type_embeddings.weight"), w.constant(0, np.int64))
    x = w.norm(w.node("Add", w.node("Add", words, where), kind), "embeddings.LayerNorm", epsilon)
    real = w.node("Cast", mask, to=TensorProto.FLOAT)
    hidden_keys = w.node("Mul", w.node("Sub", w.constant(1.0), real), w.constant(-1e9))
    bias = w.node("Unsqueeze", hidden_keys, w.constant([1, 2], np.int64))
    split, joined = w.constant([0, 0, heads, size], np.int64), w.constant([0, 0, hidden], np.int64)
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        q, k, v = (
            w.node(
                "Transpose", w.node("Reshape", w.linear(x, f"{name}.attention.self.{part}"), split), perm=[0, 2, 1, 3]
            )
            for part in ("query", "key", "value")
        )
        scores = w.node("Div", w.node("MatMul", q, w.node("Transpose", k, perm=[0, 1, 3, 2])), w.constant(size**0.5))
        mixed = w.node("MatMul", w.node("Softmax", w.node("Add", scores, bias), axis=-1), v)
        mixed = w.node("Reshape", w.node("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
        x = w.norm(
            w.node("Add", x, w.linear(mixed, f"{name}.attention.output.dense")),
            f"{name}.attention.output.LayerNorm",
            epsilon,
        )
        inner = w.linear(x, f"{name}.intermediate.dense")
        erf = w.node("Erf", w.node("Div", inner, w.constant(2**0.5)))
        gelu = w.node("Mul", w.node("Mul", inner, w.constant(0.5)), w.node("Add", erf, w.constant(1.0)))
        x = w.norm(w.node("Add", x, w.linear(gelu, f"{name}.output.dense")), f"{name}.output.LayerNorm", epsilon)
    weight = w.node("Unsqueeze", real, w.constant([2], np.int64))
    total = w.node("ReduceSum", w.node("Mul", x, weight), w.constant([1], np.int64), keepdims=0)
    mean = w.node("Div", total, w.node("ReduceSum", weight, w.constant([1], np.int64), keepdims=0))
    w.nodes.append(helper.make_node("LpNormalization", [mean], ["embedding"], axis=-1, p=2))
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "length"]) for name in (ids, mask)]
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["texts", hidden])
    graph = helper.make_graph(w.nodes, "bert", inputs, [out], list(w.constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    onnx.save(build(Path(sys.argv[1])), sys.argv[2])

"""Writes a random decoder as a stateful OpenVINO IR, as optimum-intel and openvino-genai export them.

The graph is written out here again on purpose: the engine's own is what it is compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino.op import Constant

from moltbot_models.engine.safetensors import StoredTensor
from moltbot_models.engine.weights import Matrix

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from openvino import Node

    from moltbot_models.engine.config import WeightPrecision


def write_stateful_ir(
    directory: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, NDArray[Any]],
    precision: WeightPrecision = "f32",
) -> None:
    """Write openvino_model.xml and .bin; inputs are those of an exported decoder.

    Args:
        directory: Where to.
        config: As config.json, of a Llama or a Qwen2.
        weights: By transformers' names.
        precision: Of the matrices, compressed as the engine compresses them.
    """
    model = _Export(config, weights, precision).model()
    ov.save_model(model, directory / "openvino_model.xml", compress_to_fp16=False)


def _numbers(*values: int) -> Node:
    return ops.constant(np.array(values, np.int64))


class _Export:
    def __init__(
        self, config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]], precision: WeightPrecision
    ) -> None:
        self._c = config
        self._precision: WeightPrecision = precision
        self._w = {name: np.asarray(value, np.float32) for name, value in weights.items()}
        self._sinks: list[Any] = []
        self._ids = self._parameter("input_ids", [-1, -1])
        self._attention = self._parameter("attention_mask", [-1, -1])
        self._positions = self._parameter("position_ids", [-1, -1])
        self._beam = self._parameter("beam_idx", [-1], ov.Type.i32)

    def model(self) -> ov.Model:
        c = self._c
        embedding = self._matrix("model.embed_tokens.weight")
        hidden = embedding.rows(self._ids)
        frequencies = c["rope_theta"] ** -(np.arange(0, c["head_dim"], 2, dtype=np.float64) / c["head_dim"])
        angles = ops.multiply(
            ops.unsqueeze(ops.convert(self._positions, ov.Type.f32), _numbers(2)), frequencies.astype(np.float32)
        )
        angles = ops.unsqueeze(ops.concat([angles, angles], -1), _numbers(1))
        rotary = ops.cos(angles), ops.sin(angles)
        mask = self._mask()
        for layer in range(c["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            normed = self._norm(hidden, f"{prefix}input_layernorm.weight")
            hidden = ops.add(hidden, self._mixed(layer, normed, rotary, mask))
            normed = self._norm(hidden, f"{prefix}post_attention_layernorm.weight")
            gate, up = self._linear(normed, f"{prefix}mlp.gate_proj"), self._linear(normed, f"{prefix}mlp.up_proj")
            hidden = ops.add(hidden, self._linear(ops.multiply(ops.swish(gate), up), f"{prefix}mlp.down_proj"))
        head = self._matrix("lm_head.weight") if "lm_head.weight" in self._w else embedding
        hidden = self._norm(hidden, "model.norm.weight")
        logits = ops.matmul(hidden, head.factor(), transpose_a=False, transpose_b=True)
        logits.output(0).get_tensor().set_names({"logits"})
        inputs = [self._ids, self._attention, self._positions, self._beam]
        return ov.Model([ops.result(logits)], self._sinks, inputs, "decoder")  # pyright: ignore[reportGeneralTypeIssues] - its stub binds self wrongly

    @staticmethod
    def _parameter(name: str, shape: list[int], kind: ov.Type = ov.Type.i64) -> Any:
        node = ops.parameter(ov.PartialShape(shape), kind, name=name)
        node.output(0).get_tensor().set_names({name})
        return node

    def _mask(self) -> Node:
        """[batch, 1, new, all]: what every new token may look at."""
        zero, one = ops.constant(np.int64(0)), ops.constant(np.int64(1))
        whole = ops.gather(ops.shape_of(self._attention), one, zero)
        fresh = ops.gather(ops.shape_of(self._ids), one, zero)
        keys = ops.range(zero, whole, one, ov.Type.i64)
        queries = ops.range(ops.subtract(whole, fresh), whole, one, ov.Type.i64)
        visible = ops.less_equal(ops.unsqueeze(keys, _numbers(0)), ops.unsqueeze(queries, _numbers(1)))
        causal = ops.select(visible, np.float32(0), np.float32(-65504))
        return ops.unsqueeze(causal, _numbers(0, 1))

    def _mixed(self, layer: int, x: Node, rotary: tuple[Node, Node], mask: Node) -> Node:
        c, prefix = self._c, f"model.layers.{layer}.self_attn."
        heads, kv_heads, size = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]

        def split(name: str, count: int) -> Node:
            flat = ops.reshape(self._linear(x, f"{prefix}{name}"), _numbers(0, 0, count, size), special_zero=True)
            return ops.transpose(flat, _numbers(0, 2, 1, 3))

        query = self._rotated(split("q_proj", heads), rotary)
        key = self._kept(layer, "key", self._rotated(split("k_proj", kv_heads), rotary))
        value = self._kept(layer, "value", split("v_proj", kv_heads))
        repeated = [self._repeated(one, heads // kv_heads) for one in (key, value)]
        mixed = ops.scaled_dot_product_attention(query, *repeated, mask)
        joined = ops.transpose(mixed, _numbers(0, 2, 1, 3))
        return self._linear(ops.reshape(joined, _numbers(0, 0, heads * size), special_zero=True), f"{prefix}o_proj")

    def _kept(self, layer: int, kind: str, fresh: Node) -> Node:
        shape = [-1, self._c["num_key_value_heads"], -1, self._c["head_dim"]]
        batch = ops.gather(ops.shape_of(self._ids), _numbers(0), ops.constant(np.int64(0)))
        empty = ops.broadcast(
            ops.constant(np.float32(0)), ops.concat([batch, _numbers(shape[1]), _numbers(0), _numbers(shape[3])], 0)
        )
        name = f"past_key_values.{layer}.{kind}present.{layer}.{kind}"
        past = ops.read_value(empty, name, ov.Type.f32, ov.PartialShape(shape))
        whole = ops.concat([ops.gather(past, self._beam, ops.constant(np.int64(0))), fresh], 2)
        self._sinks.append(ops.assign(whole, name))
        return whole

    def _repeated(self, x: Node, times: int) -> Node:
        kv_heads, size = self._c["num_key_value_heads"], self._c["head_dim"]
        shape = ops.shape_of(x)
        length = ops.gather(shape, _numbers(2), ops.constant(np.int64(0)))
        batch = ops.gather(shape, _numbers(0), ops.constant(np.int64(0)))
        wide = ops.concat([batch, _numbers(kv_heads), _numbers(times), length, _numbers(size)], 0)
        spread = ops.broadcast(ops.unsqueeze(x, _numbers(2)), wide, broadcast_spec="BIDIRECTIONAL")
        return ops.reshape(spread, _numbers(0, kv_heads * times, -1, size), special_zero=True)

    def _rotated(self, x: Node, rotary: tuple[Node, Node]) -> Node:
        half, end = self._c["head_dim"] // 2, 2**63 - 1
        low = ops.slice(x, _numbers(0), _numbers(half), _numbers(1), _numbers(3))
        high = ops.slice(x, _numbers(half), _numbers(end), _numbers(1), _numbers(3))
        turned = ops.concat([ops.multiply(high, np.float32(-1)), low], -1)
        return ops.add(ops.multiply(x, rotary[0]), ops.multiply(turned, rotary[1]))

    def _norm(self, x: Node, name: str) -> Node:
        square = ops.reduce_mean(ops.power(x, np.float32(2)), _numbers(-1), keep_dims=True)
        root = ops.sqrt(ops.add(square, np.float32(self._c["rms_norm_eps"])))
        return ops.multiply(ops.multiply(x, ops.divide(np.float32(1), root)), Constant(self._w[name].reshape(1, 1, -1)))

    def _linear(self, x: Node, name: str) -> Node:
        out = ops.matmul(x, self._matrix(f"{name}.weight").factor(), transpose_a=False, transpose_b=True)
        bias = self._w.get(f"{name}.bias")
        return out if bias is None else ops.add(out, Constant(bias.reshape(1, 1, -1)))

    def _matrix(self, name: str) -> Matrix:
        return Matrix(StoredTensor(name, "F32", self._w[name]), self._precision)

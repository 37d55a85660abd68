"""Builds the decoder as an OpenVINO graph, node by node, from a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino.op import Constant

from moltbot_models.engine.paged_attention import batch_parameters, paged_attention, parameter
from moltbot_models.engine.paged_model import INSET_INPUTS
from moltbot_models.engine.rope import rotary_tables
from moltbot_models.engine.safetensors import stacked
from moltbot_models.engine.weights import Matrix, vector

if TYPE_CHECKING:
    from openvino import Node
    from openvino.op import Parameter

    from moltbot_models.engine.architecture import Architecture
    from moltbot_models.engine.config import WeightPrecision
    from moltbot_models.engine.safetensors import Checkpoint


def build_graph(
    architecture: Architecture, checkpoint: Checkpoint, precision: WeightPrecision, *, insets: bool = False
) -> ov.Model:
    """Return a model from `input_ids`, `position_ids`, the batch inputs and the caches to logits.

    Logits are f32 [sampled, vocabulary]: only the rows named by `sampled_tokens_indices` pay for the vocabulary.

    Args:
        architecture: The numbers of config.json.
        checkpoint: The tensors.
        precision: Of the matrices.
        insets: Whether rows can stand in the place of tokens (`INSET_INPUTS`), for models that take images.

    Raises:
        EngineError: `MODEL_INVALID` if the checkpoint does not hold what config.json describes.
    """
    return _Builder(architecture, checkpoint, precision).model(insets=insets)


class _Builder:
    def __init__(self, architecture: Architecture, checkpoint: Checkpoint, precision: WeightPrecision) -> None:
        self._a = architecture
        self._checkpoint = checkpoint
        self._precision: WeightPrecision = precision
        self._batch = batch_parameters()

    def model(self, *, insets: bool) -> ov.Model:
        a = self._a
        input_ids = parameter("input_ids", ov.Type.i64, [-1])
        position_ids = parameter("position_ids", ov.Type.i64, [-1])
        sampled = parameter("sampled_tokens_indices", ov.Type.i64, [-1])
        embedding = self._words("model.embed_tokens.weight")
        head = embedding if a.tied_head else self._words("lm_head.weight")
        rotary = self._rotary(position_ids)
        hidden = embedding.rows(input_ids)
        given: list[Parameter] = []
        if insets:
            places = parameter(INSET_INPUTS[0], ov.Type.i64, [-1])
            rows = parameter(INSET_INPUTS[1], ov.Type.f32, [-1, a.hidden_size])
            hidden = ops.scatter_update(hidden, places, rows, ops.constant(np.int64(0)))
            given = [places, rows]
        caches: list[Parameter] = []
        for layer in range(a.layers):
            hidden, added = self._attention(layer, hidden, rotary)
            caches += added
            hidden = self._mlp(layer, hidden)
        hidden = ops.gather(hidden, sampled, ops.constant(np.int64(0)))
        hidden = self._norm(hidden, "model.norm.weight", a.hidden_size)
        logits = ops.matmul(hidden, head.factor(), transpose_a=False, transpose_b=True)
        logits.output(0).get_tensor().set_names({"logits"})
        inputs = [input_ids, position_ids, *self._batch.all(), sampled, *given, *caches]
        return ov.Model([logits], inputs, a.family)  # pyright: ignore[reportGeneralTypeIssues] - its stub binds self wrongly

    def _attention(self, layer: int, hidden: Node, rotary: tuple[Node, Node]) -> tuple[Node, list[Parameter]]:
        a, prefix = self._a, f"model.layers.{layer}.self_attn"
        normed = self._norm(hidden, f"model.layers.{layer}.input_layernorm.weight", a.hidden_size)
        query_size, kv_size = a.heads * a.head_size, a.kv_heads * a.head_size
        parts = {f"{prefix}.q_proj": query_size, f"{prefix}.k_proj": kv_size, f"{prefix}.v_proj": kv_size}
        query, key, value = self._linears(normed, parts, a.hidden_size, bias=a.qkv_bias)
        query = self._rotated(query, a.heads, rotary, f"{prefix}.q_norm.weight")
        key = self._rotated(key, a.kv_heads, rotary, f"{prefix}.k_norm.weight")
        mixed, caches = paged_attention(
            layer, query, key, value, self._batch, heads=a.heads, kv_heads=a.kv_heads, head_size=a.head_size
        )
        out = self._linear(mixed, f"{prefix}.o_proj", a.hidden_size, query_size, bias=a.output_bias)
        return ops.add(hidden, out), caches

    def _mlp(self, layer: int, hidden: Node) -> Node:
        a, prefix = self._a, f"model.layers.{layer}.mlp"
        normed = self._norm(hidden, f"model.layers.{layer}.post_attention_layernorm.weight", a.hidden_size)
        # Two products: the plugin computes swish and product while it writes them, which it does not through slices of
        # one. With 72 rows, one costs a third more of the whole step.
        gate = self._linear(normed, f"{prefix}.gate_proj", a.intermediate_size, a.hidden_size, bias=a.mlp_bias)
        up = self._linear(normed, f"{prefix}.up_proj", a.intermediate_size, a.hidden_size, bias=a.mlp_bias)
        product = ops.multiply(ops.swish(gate), up)
        return ops.add(
            hidden, self._linear(product, f"{prefix}.down_proj", a.hidden_size, a.intermediate_size, bias=a.mlp_bias)
        )

    def _rotary(self, position_ids: Node) -> tuple[Node, Node]:
        a = self._a

        def rows(table: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Node:
            shaped = Constant(np.ascontiguousarray(table).reshape(-1, 1, 1, a.head_size))
            return ops.gather(shaped, position_ids, ops.constant(np.int64(0)))

        cosine, sine = rotary_tables(a.rope, a.head_size, a.context_length)
        return rows(cosine), rows(sine)

    def _rotated(self, flat: Node, heads: int, rotary: tuple[Node, Node], norm: str) -> Node:
        size = self._a.head_size
        x = ops.reshape(flat, ops.constant(np.array([-1, heads, 1, size])), special_zero=False)
        if self._a.qk_norm:
            x = self._norm(x, norm, size)

        def part(begin: int, end: int) -> Node:
            # Slices, not a split: the plugin fuses the rotation into one kernel only in this form.
            bounds = [ops.constant(np.array([number])) for number in (begin, end, 1, 3)]
            return ops.slice(x, *bounds)

        turned = ops.concat([ops.multiply(part(size // 2, 2**63 - 1), np.float32(-1)), part(0, size // 2)], axis=-1)
        out = ops.add(ops.multiply(x, rotary[0]), ops.multiply(turned, rotary[1]))
        return ops.reshape(out, ops.constant(np.array([-1, heads * size])), special_zero=False)

    def _norm(self, x: Node, name: str, size: int) -> Node:
        square = ops.reduce_mean(ops.power(x, np.float32(2)), ops.constant(np.array([-1])), keep_dims=True)
        root = ops.sqrt(ops.add(square, np.float32(self._a.norm_epsilon)))
        weight = vector(self._checkpoint.tensor(name, (size,)))
        return ops.multiply(weight, ops.multiply(x, ops.divide(np.float32(1), root)))

    def _linear(self, x: Node, name: str, rows: int, columns: int, *, bias: bool) -> Node:
        return self._product(x, {name: rows}, columns, bias=bias)

    def _linears(self, x: Node, parts: dict[str, int], columns: int, *, bias: bool) -> list[Node]:
        """Return the product with each of some matrices (name: rows), computed as one.

        Threads meet after every product, and wait there for the slowest: one costs some hundredths less of a step.
        """
        out = self._product(x, parts, columns, bias=bias)
        ends = np.cumsum(list(parts.values()))
        return [_columns(out, int(end) - rows, int(end)) for end, rows in zip(ends, parts.values(), strict=True)]

    def _product(self, x: Node, parts: dict[str, int], columns: int, *, bias: bool) -> Node:
        tensor = self._checkpoint.tensor
        weight = stacked([tensor(f"{name}.weight", (rows, columns)) for name, rows in parts.items()])
        out = ops.matmul(x, Matrix(weight, self._precision).factor(), transpose_a=False, transpose_b=True)
        if not bias:
            return out
        return ops.add(out, vector(stacked([tensor(f"{name}.bias", (rows,)) for name, rows in parts.items()])))

    def _words(self, name: str) -> Matrix:
        # With 4-bit layers these stay in 8: an error in the head is an error in the logits, and rows of the embedding
        # are gathered, which half bytes do not allow.
        stored = self._checkpoint.tensor(name, (self._a.vocabulary, self._a.hidden_size))
        return Matrix(stored, "u8" if self._precision == "u4" else self._precision)


def _columns(x: Node, begin: int, end: int) -> Node:
    return ops.slice(x, *(ops.constant(np.array([number])) for number in (begin, end, 1, 1)))

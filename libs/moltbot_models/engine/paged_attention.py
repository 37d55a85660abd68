"""The one place that names OpenVINO's paged attention: underscore names without a stable contract.

The node takes 28 inputs in openvino 2026.4.1; `pyproject.toml` pins that version, and the numpy reference in the tests
tells when an upgrade changes what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino._offline_transformations import paged_attention_transformation
from openvino.op import _PagedAttentionExtension  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]

if TYPE_CHECKING:
    from openvino import Node
    from openvino.op import Parameter

BLOCK_TOKENS = 32
"""Tokens in one block of the cache; the CPU plugin knows this size alone."""


@dataclass(frozen=True, slots=True)
class BatchParameters:
    """Inputs of the graph that say which sequence and which cache block every token belongs to."""

    past_lens: Parameter
    """i32 [S]: tokens of each sequence that are in the cache already."""
    subsequence_begins: Parameter
    """i32 [S + 1]: where each sequence's new tokens begin."""
    block_indices: Parameter
    """i32 [blocks]: the blocks of all sequences, one after another."""
    block_indices_begins: Parameter
    """i32 [S + 1]: where each sequence's blocks begin."""
    max_context_len: Parameter
    """i32 scalar: the longest sequence, past and new tokens together."""

    def all(self) -> list[Parameter]:
        """Return every parameter, in the node's order."""
        return [
            self.past_lens,
            self.subsequence_begins,
            self.block_indices,
            self.block_indices_begins,
            self.max_context_len,
        ]


def parameter(name: str, kind: ov.Type, shape: list[int]) -> Parameter:
    """Return a named input of the graph."""
    node = ops.parameter(ov.PartialShape(shape), kind, name=name)
    node.output(0).get_tensor().set_names({name})
    return node


def batch_parameters() -> BatchParameters:
    """Return fresh batch inputs."""
    return BatchParameters(
        parameter("past_lens", ov.Type.i32, [-1]),
        parameter("subsequence_begins", ov.Type.i32, [-1]),
        parameter("block_indices", ov.Type.i32, [-1]),
        parameter("block_indices_begins", ov.Type.i32, [-1]),
        parameter("max_context_len", ov.Type.i32, []),
    )


def paged_attention(
    layer: int,
    query: Node,
    key: Node,
    value: Node,
    batch: BatchParameters,
    *,
    heads: int,
    kv_heads: int,
    head_size: int,
) -> tuple[Node, list[Parameter]]:
    """Return causal attention [T, heads * head_size] over the paged cache, and the layer's two cache inputs.

    Args:
        layer: Number of the layer, part of the inputs' names (`key_cache.N`, `value_cache.N`).
        query: f32 [T, heads * head_size], rotated.
        key: f32 [T, kv_heads * head_size], rotated.
        value: f32 [T, kv_heads * head_size].
        batch: The shared batch inputs.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_size: Numbers in one head.
    """
    # Type and layout of the caches are decided when the plugin compiles the model: read them there.
    caches = [parameter(f"{name}_cache.{layer}", ov.Type.dynamic, [-1, -1, -1, -1]) for name in ("key", "value")]
    no_int, no_float = ops.constant(np.zeros(0, np.int32)), ops.constant(np.zeros(0, np.float32))
    zero = ops.constant(np.array(0, np.int32))
    scale = ops.constant(np.array(head_size**-0.5, np.float32))
    inputs: list[Node] = [
        *(query, key, value, *caches),
        *(batch.past_lens, batch.subsequence_begins, batch.block_indices, batch.block_indices_begins),
        *(scale, zero, no_float, batch.max_context_len),  # scale, no sliding window, no ALiBi slopes
        *(no_int, no_int, no_int, no_float),  # no score aggregation, no rotation of cached keys
        *(no_float, zero, zero, no_float),  # no sparse attention, no sinks
        *(zero, no_int, no_int, no_int),  # no eviction by diversity
        *(no_int, ops.constant(np.zeros(0, np.uint8)), no_int),  # no token types, no query-to-query bias
    ]
    node = _PagedAttentionExtension([one.output(0) for one in inputs])
    info = node.get_rt_info()
    info["num_k_heads"] = info["num_v_heads"] = kv_heads
    info["k_head_size"] = info["v_head_size"] = head_size
    flat = ops.reshape(node.output(0), ops.constant(np.array([-1, heads * head_size])), special_zero=False)
    return flat, caches


def make_paged(model: ov.Model) -> None:
    """Replace the states and the attention of a stateful model by paged attention, in place.

    The inputs are then those of `BatchParameters`, `key_cache.N`, `value_cache.N`, `input_ids` and `position_ids`.

    Raises:
        RuntimeError: OpenVINO finds no attention that it can replace.
    """
    paged_attention_transformation(model)

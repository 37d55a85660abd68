"""A compiled model and its cache: one call computes a mixed batch of prompt chunks and single tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.paged_attention import BLOCK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from moltbot_models.engine.config import EngineConfig


@dataclass(frozen=True, slots=True)
class Slice:
    """New tokens of one sequence in a step."""

    tokens: Sequence[int]
    past: int
    """Tokens of this sequence that the cache holds already."""
    blocks: Sequence[int]
    """The sequence's blocks, enough for past and new tokens."""
    samples: bool
    """Whether the logits after the last of these tokens are wanted."""


class PagedModel:
    """Owns the compiled model, its one infer request and the memory of the caches. Not thread-safe."""

    def __init__(self, model: ov.Model, config: EngineConfig) -> None:
        """Compile the graph and reserve its caches.

        Args:
            model: The graph of `graph.build_graph`.
            config: Precisions, threads and memory.

        Raises:
            EngineError: `INVALID_ARGUMENT` if the memory does not hold two blocks.
        """
        options: dict[str, Any] = {
            "KV_CACHE_PRECISION": config.kv,
            "INFERENCE_PRECISION_HINT": config.compute,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if config.threads:
            options["INFERENCE_NUM_THREADS"] = config.threads
        if config.deterministic:
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
        compiled = ov.Core().compile_model(model, "CPU", options)
        self._request = compiled.create_infer_request()
        ports = [port for port in compiled.inputs if "_cache." in port.any_name]
        shapes = [[dimension.get_length() for dimension in list(port.partial_shape)[1:]] for port in ports]
        block_bytes = sum(math.prod(shape) * port.element_type.size for port, shape in zip(ports, shapes, strict=True))
        self.blocks = config.kv_cache_bytes // block_bytes
        if self.blocks < 2:
            raise EngineError(
                "INVALID_ARGUMENT",
                f"kv_cache_bytes={config.kv_cache_bytes} holds {self.blocks} blocks of {block_bytes} bytes; "
                f"give at least {2 * block_bytes}",
            )
        # A product with one row takes another kernel, which rounds otherwise: in deterministic mode every step has a
        # companion token, in a block of its own behind the others, so that no row is ever alone.
        self._companion = Slice([0], 0, [self.blocks], samples=True) if config.deterministic else None
        # Memory that is not touched yet costs nothing: the pages arrive as the cache fills.
        self._caches = [
            ov.Tensor(port.element_type, ov.Shape([self.blocks + (self._companion is not None), *shape]))
            for port, shape in zip(ports, shapes, strict=True)
        ]
        for port, cache in zip(ports, self._caches, strict=True):
            self._request.set_tensor(port.any_name, cache)
        self._logits = compiled.outputs[0].any_name

    def forward(self, batch: Sequence[Slice]) -> NDArray[np.float32]:
        """Compute all slices at once and return logits, a row for each slice that samples, in order.

        The rows [sampled, vocabulary] may be written to, and live until the next call.
        """
        if self._companion is not None:
            batch = [*batch, self._companion]
        lengths = np.array([len(one.tokens) for one in batch])
        past = np.array([one.past for one in batch], np.int32)
        begins = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        used = [one.blocks[: -(-(one.past + len(one.tokens)) // BLOCK_TOKENS)] for one in batch]
        positions = np.arange(begins[-1], dtype=np.int64) + np.repeat(past - begins[:-1], lengths)
        ends = begins[1:] - 1
        inputs = {
            "input_ids": np.array([token for one in batch for token in one.tokens], np.int64),
            "position_ids": positions,
            "past_lens": past,
            "subsequence_begins": begins,
            "block_indices": np.array([block for blocks in used for block in blocks], np.int32),
            "block_indices_begins": np.concatenate([[0], np.cumsum([len(blocks) for blocks in used])]).astype(np.int32),
            "max_context_len": np.array((past + lengths).max(), np.int32),
            "sampled_tokens_indices": ends[[one.samples for one in batch]].astype(np.int64),
        }
        for name, value in inputs.items():
            self._request.set_tensor(name, ov.Tensor(value))
        self._request.infer()
        logits = self._request.get_tensor(self._logits).data
        return logits if self._companion is None else logits[:-1]

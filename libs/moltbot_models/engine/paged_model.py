"""A compiled model and its cache: one call computes a mixed batch of prompt chunks and single tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

from moltbot_models.engine.memory import available_bytes, cache_blocks
from moltbot_models.engine.paged_attention import BLOCK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from moltbot_models.engine.config import EngineConfig


INPUTS = (
    "input_ids",
    "position_ids",
    "past_lens",
    "subsequence_begins",
    "block_indices",
    "block_indices_begins",
    "max_context_len",
    "sampled_tokens_indices",
)
"""Of every graph that this runs, beside the caches."""
INSET_INPUTS = ("inset_places", "inset_rows")
"""Of a graph that takes images: i64 [n], tokens of the step; f32 [n, hidden], what stands in their place."""


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
    insets: Sequence[tuple[int, NDArray[np.float32]]] = ()
    """Rows in the place of tokens: the first of these tokens that they replace, and f32 [n, hidden]."""


class PagedModel:
    """Owns the compiled model, its one infer request and the memory of the caches. Not thread-safe."""

    def __init__(self, model: ov.Model, config: EngineConfig) -> None:
        """Compile the graph and reserve its caches.

        Args:
            model: The graph of `graph.build_graph`.
            config: Precisions, threads and memory.

        Raises:
            EngineError: As `memory.cache_blocks`.
        """
        options: dict[str, Any] = {
            "KV_CACHE_PRECISION": config.kv,
            "INFERENCE_PRECISION_HINT": config.compute,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Threads tied to a core wait, spinning, for the one whose core does something else: here there is always
            # something else, and if only this process's Python.
            "ENABLE_CPU_PINNING": False,
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
        self.blocks = cache_blocks(block_bytes, config.kv_cache_bytes, available_bytes())
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
        # By number: a name is looked for among all inputs, two for each layer.
        places = {port.any_name: place for place, port in enumerate(compiled.inputs)}
        self._places = [places[name] for name in INPUTS]
        self._no_rows: NDArray[np.float32] | None = None
        if INSET_INPUTS[0] in places:
            self._places += [places[name] for name in INSET_INPUTS]
            hidden = compiled.input(INSET_INPUTS[1]).partial_shape[1].get_length()
            self._no_rows = np.zeros((0, hidden), np.float32)
        self._inputs: list[NDArray[Any] | None] = [None] * len(self._places)

    def forward(self, batch: Sequence[Slice], meanwhile: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """Compute all slices at once and return logits, a row for each slice that samples, in order.

        The rows [sampled, vocabulary] may be written to, and live until the next call.

        Args:
            batch: The slices.
            meanwhile: Called while they are computed; must leave the slices' blocks alone.
        """
        if self._companion is not None:
            batch = [*batch, self._companion]
        # Lists, and numpy at the end: a step has few sequences, and each call of numpy costs as much as ten of them.
        tokens: list[int] = []
        positions: list[int] = []
        begins, block_begins = [0], [0]
        blocks: list[int] = []
        sampled: list[int] = []
        inset_places: list[int] = []
        inset_rows: list[NDArray[np.float32]] = []
        longest = 0
        for one in batch:
            for place, rows in one.insets:
                inset_places += range(len(tokens) + place, len(tokens) + place + len(rows))
                inset_rows.append(rows)
            tokens += one.tokens
            length = one.past + len(one.tokens)
            positions += range(one.past, length)
            blocks += one.blocks[: -(-length // BLOCK_TOKENS)]
            begins.append(len(tokens))
            block_begins.append(len(blocks))
            if one.samples:
                sampled.append(len(tokens) - 1)
            longest = max(longest, length)
        values = [
            np.array(tokens, np.int64),
            np.array(positions, np.int64),
            np.array([one.past for one in batch], np.int32),
            np.array(begins, np.int32),
            np.array(blocks, np.int32),
            np.array(block_begins, np.int32),
            np.array(longest, np.int32),
            np.array(sampled, np.int64),
        ]
        if self._no_rows is not None:
            rows = np.concatenate(inset_rows) if inset_rows else self._no_rows
            values += [np.array(inset_places, np.int64), rows]
        for number, value in enumerate(values):
            held = self._inputs[number]
            if held is not None and held.shape == value.shape:
                held[...] = value  # the request reads this memory: while sequences only decode, most shapes stay
            else:
                self._inputs[number] = value
                self._request.set_input_tensor(self._places[number], ov.Tensor(value, shared_memory=True))
        self._request.start_async()
        try:
            if meanwhile is not None:
                meanwhile()
        finally:
            self._request.wait()
        logits = self._request.get_output_tensor(0).data
        return logits if self._companion is None else logits[:-1]

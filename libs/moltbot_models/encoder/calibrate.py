"""Finds, once for a model, which of its layers bear INT8 and in what ranges; the result is stored beside the weights.

Every group of linear layers is tried alone. What it costs (1 - mean cosine to FP32) is nearly additive over groups, so
those that save most arithmetic for their cost are taken until the budget is spent; the rest stays in BF16.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from moltbot_models.encoder.checkpoint import EncoderCheckpoint
from moltbot_models.encoder.config import EncoderConfig
from moltbot_models.encoder.encoder import Encoder
from moltbot_models.encoder.graph import build_graph
from moltbot_models.encoder.quantized import EncoderRanges, LinearRange
from moltbot_models.encoder.runtime import EncoderRuntime, compile_encoder, weights_sha256, word_table
from moltbot_models.encoder.shape import EncoderShape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

COST_BUDGET = 1.5e-5
"""1 - mean cosine that INT8 may cost together, summed over the groups alone. On MiniLM-L6 it is the largest of six
tried that kept 99 % of top-10 neighbours; BF16 spends 1.2e-5 beside it."""
_MAX_TOKENS_SEEN = 60_000


def calibrate(
    path: Path,
    samples: Sequence[str],
    *,
    budget: float = COST_BUDGET,
    threads: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> EncoderRanges:
    """Measure a sentence encoder's ranges and choose its INT8 layers. Blocks: half a minute for MiniLM-L6.

    Args:
        path: The model's directory.
        samples: Real texts of mixed length, a few hundred.
        budget: See `COST_BUDGET`.
        threads: Of the arithmetic; 0 takes every core.
        progress: Told the group at work and the share that is done.

    Raises:
        EncoderError: The directory is damaged or holds another kind of model.
    """
    shape, checkpoint = EncoderShape.read(path), EncoderCheckpoint(path / "model.safetensors")
    config = EncoderConfig(precision="f32", threads=threads)
    reference = Encoder.load(path, config)
    expected, _ = reference.embed(samples)
    spans = _ranges(path, shape, checkpoint, samples, threads)
    tokenizer = _tokenizer(path)
    costs: dict[str, float] = {}
    for name, span in spans.items():
        if progress is not None:
            progress(name, len(costs) / len(spans))
        compiled = compile_encoder(build_graph(shape, checkpoint, ranges={name: span}), "f32", threads, path)
        alone = Encoder(EncoderRuntime(compiled, tokenizer, shape, reference.max_tokens, config, checkpoint))
        costs[name] = float(1 - (alone.embed(samples)[0] * expected).sum(1, dtype=np.float64).mean())
    chosen = _chosen(shape, costs, budget)
    if progress is not None:
        progress("done", 1.0)
    digest = hashlib.sha256("\n".join(samples).encode()).hexdigest()
    return EncoderRanges(
        weights_sha256(path / "model.safetensors"), digest, {name: spans[name] for name in chosen}, costs
    )


def write_ranges(file: Path, ranges: EncoderRanges) -> None:
    """Store ranges; a reader never sees half."""
    fresh = file.with_suffix(".new")
    fresh.write_text(ranges.to_json(), "utf-8")
    fresh.replace(file)


def _tokenizer(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer


def _ranges(
    path: Path, shape: EncoderShape, checkpoint: EncoderCheckpoint, samples: Sequence[str], threads: int
) -> Mapping[str, LinearRange]:
    compiled = compile_encoder(build_graph(shape, checkpoint, taps=True), "f32", threads, path)
    request = compiled.create_infer_request()
    names = list(_groups(shape))
    seen: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    tokenizer = _tokenizer(path)
    tokenizer.enable_truncation(shape.max_tokens)
    words = word_table(checkpoint, shape, tokenizer)
    total = 0
    for text in samples:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        request.infer({"words": words(ids), "attention_mask": np.ones_like(ids)})
        for name in names:
            seen[name].append(request.get_tensor(name).data[0].copy())
        total += ids.size
        if total > _MAX_TOKENS_SEEN:
            break
    spans: dict[str, LinearRange] = {}
    for name, (layers, rows, columns) in _groups(shape).items():
        weights = [checkpoint.tensor(f"{layer}.weight", rows, columns) for layer in layers]
        spans[name] = LinearRange.measured(np.concatenate(seen.pop(name)), weights)
    return spans


def _groups(shape: EncoderShape) -> dict[str, tuple[list[str], int, int]]:
    """The groups that are tried: their layers, rows and columns.

    The layer behind the attention is left out: it is so small that quantising its input costs what INT8 saves.
    """
    found: dict[str, tuple[list[str], int, int]] = {}
    for layer in range(shape.layers):
        name = f"encoder.layer.{layer}"
        attention = f"{name}.attention.self"
        parts = [f"{attention}.{part}" for part in ("query", "key", "value")]
        found[attention] = (parts, shape.hidden, shape.hidden)
        found[f"{name}.intermediate.dense"] = ([f"{name}.intermediate.dense"], shape.intermediate, shape.hidden)
        found[f"{name}.output.dense"] = ([f"{name}.output.dense"], shape.hidden, shape.intermediate)
    return found


def _chosen(shape: EncoderShape, costs: Mapping[str, float], budget: float) -> list[str]:
    saved = {name: len(layers) * rows * columns for name, (layers, rows, columns) in _groups(shape).items()}
    chosen: list[str] = []
    for name in sorted(costs, key=lambda name: max(costs[name], 0.0) / saved[name]):
        if costs[name] <= budget:
            chosen.append(name)
            budget -= max(costs[name], 0.0)
    return sorted(chosen)

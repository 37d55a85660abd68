"""Finds, once for a model, which of its layers bear INT8 and in what ranges; the result is stored beside the weights.

Every group of linear layers is tried alone. What it costs is nearly additive over groups, so those that save most
arithmetic for their cost are taken until the budget is spent; the rest stays in BF16 or FP32. The cost of vectors is
1 - mean cosine to FP32, that of scores the variance of the logits' error as a share of the logits' own (`_strayed`).
"""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np

from moltbot_models.encoder.checkpoint import EncoderCheckpoint
from moltbot_models.encoder.classifier import Classifier
from moltbot_models.encoder.config import EncoderConfig
from moltbot_models.encoder.encoder import Encoder
from moltbot_models.encoder.graph import build_graph
from moltbot_models.encoder.quantized import EncoderRanges, LinearRange
from moltbot_models.encoder.runs import STEP_TOKENS, packed
from moltbot_models.encoder.runtime import EncoderRuntime, compile_encoder, weights_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from tokenizers import Encoding

    from moltbot_models.encoder.shape import EncoderShape

EncoderTask = Literal["embedding", "rerank", "classification"]
COST_BUDGETS: Mapping[EncoderTask, float] = MappingProxyType(
    {"embedding": 1.5e-5, "rerank": 1e-3, "classification": 3e-4}
)
"""What INT8 may cost together, summed over the groups alone. For vectors it is the largest of six tried that kept 99 %
of top-10 neighbours on MiniLM-L6; BF16 spends 1.2e-5 beside it. For scores see docs/performance.md."""
_MAX_TOKENS_SEEN = 60_000
_QUERIES, _DOCUMENTS = 4, 48
"""Of the texts with which a reranker is calibrated: the shortest ask, and each is paired with so many of all."""


def calibrate(
    path: Path,
    samples: Sequence[str],
    *,
    task: EncoderTask = "embedding",
    budget: float | None = None,
    threads: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> EncoderRanges:
    """Measure an encoder's ranges and choose its INT8 layers. Blocks: half a minute for MiniLM-L6.

    Args:
        path: The model's directory.
        samples: Real texts of mixed length, a few hundred.
        task: What the model is served for.
        budget: See `COST_BUDGETS`, whose figure is taken if None.
        threads: Of the arithmetic; 0 takes every core.
        progress: Told the group at work and the share that is done.

    Raises:
        EncoderError: The directory is damaged or holds another kind of model.
        EngineError: `MODEL_UNSUPPORTED` if a reranker has more than one class.
    """
    config = EncoderConfig(precision="f32", threads=threads)
    checkpoint = EncoderCheckpoint(path / "model.safetensors")
    if task == "embedding":
        encoder = Encoder.load(path, config)
        reference, rows = encoder.runtime, encoder.rows(samples)
    else:
        classifier = Classifier.load(path, config)
        reference = classifier.runtime
        rows = _pairs(classifier, samples) if task == "rerank" else classifier.rows(samples)
    rows = [row for row in rows if row.ids]
    shape, expected = reference.shape, reference.run(rows)
    spans = _ranges(path, shape, checkpoint, rows, threads)
    costs: dict[str, float] = {}
    for name, span in spans.items():
        if progress is not None:
            progress(name, len(costs) / len(spans))
        compiled = compile_encoder(build_graph(shape, checkpoint, ranges={name: span}), "f32", threads, path)
        alone = EncoderRuntime(compiled, reference.tokenizer, shape, reference.max_tokens, config, checkpoint)
        found = alone.run(rows)
        costs[name] = _turned(found, expected) if task == "embedding" else _strayed(found, expected)
    chosen = _chosen(shape, costs, COST_BUDGETS[task] if budget is None else budget)
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


def _pairs(classifier: Classifier, samples: Sequence[str]) -> list[Encoding]:
    documents = samples[:: -(-len(samples) // _DOCUMENTS)]
    return [row for query in sorted(samples, key=len)[:_QUERIES] for row in classifier.pairs(query, documents)]


def _turned(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """1 - mean cosine of vectors of length 1."""
    return float(1 - (found * expected).sum(1, dtype=np.float64).mean())


def _strayed(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The squared error of logits, f32 [rows, classes], as a share of their own variance over the rows.

    An offset that all rows share is no error of a ranking, but it moves a probability; it counts.
    """
    own = np.square(expected - expected.mean(0), dtype=np.float64).sum()
    return float(np.square(found - expected, dtype=np.float64).sum() / max(own, 1e-12))


def _ranges(
    path: Path, shape: EncoderShape, checkpoint: EncoderCheckpoint, rows: Sequence[Encoding], threads: int
) -> Mapping[str, LinearRange]:
    compiled = compile_encoder(build_graph(shape, checkpoint, taps=True), "f32", threads, path)
    request = compiled.create_infer_request()
    names = list(_groups(shape))
    seen: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    words = checkpoint.rows("embeddings.word_embeddings.weight", shape.vocabulary, shape.hidden)
    total = 0
    for row in rows:
        ids, inputs = packed(
            [row], most=1, bucket=1, step=STEP_TOKENS["f32"], longest=shape.max_tokens, kinds=shape.takes_kinds
        )
        request.infer({**inputs, "words": words(ids)})
        for name in names:
            seen[name].append(request.get_tensor(name).data[: len(row.ids)].copy())
        total += len(row.ids)
        if total > _MAX_TOKENS_SEEN:
            break
    spans: dict[str, LinearRange] = {}
    for name, (layers, height, columns) in _groups(shape).items():
        weights = [checkpoint.tensor(f"{layer}.weight", height, columns) for layer in layers]
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

"""Runs a compiled encoder with ONNX Runtime on this machine, so that the accuracy gate can judge it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from tokenizers import Tokenizer

from moltbot_models.targets.onnx_encoder import onnx_module

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_ROWS = 16


def embedder(model: Any, directory: Path, max_tokens: int) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Return a function from texts to vectors, f32 [texts, dimensions].

    Args:
        model: Of `build_onnx`.
        directory: Of the tokenizer.
        max_tokens: Of a text.

    Raises:
        FailedPrecondition: The extra `compile` is not installed.
    """
    onnx_module()  # says what is missing
    import onnxruntime  # noqa: PLC0415 - an extra

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [row.ids for row in tokenizer.encode_batch(list(texts))]
        order = np.argsort([len(row) for row in rows], kind="stable")
        parts: list[NDArray[np.float32]] = []
        for begin in range(0, len(rows), _ROWS):
            chosen = [rows[place] for place in order[begin : begin + _ROWS]]
            ids = np.zeros((len(chosen), max(map(len, chosen))), np.int64)
            mask = ids.copy()
            for place, row in enumerate(chosen):
                ids[place, : len(row)], mask[place, : len(row)] = row, 1
            found = session.run(None, {"input_ids": ids, "attention_mask": mask})
            parts.append(cast("NDArray[np.float32]", found[0]))
        return np.concatenate(parts)[np.argsort(order, kind="stable")]

    return embed

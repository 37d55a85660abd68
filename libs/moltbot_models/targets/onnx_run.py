"""Runs a compiled encoder with ONNX Runtime on this machine, so that the accuracy gate can judge it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from moltbot_models.targets.onnx_encoder import onnx_module

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from tokenizers import Encoding

    from moltbot_models.encoder import Classifier

_ROWS = 16


def runner(model: Any) -> Callable[[Sequence[Encoding]], NDArray[np.float32]]:
    """Return a function from encodings to vectors or scores, f32 [rows, width].

    Args:
        model: Of `build_onnx`.

    Raises:
        FailedPrecondition: The extra `compile` is not installed.
    """
    onnx_module()  # says what is missing
    import onnxruntime  # noqa: PLC0415 - an extra

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(rows: Sequence[Encoding]) -> NDArray[np.float32]:
        order = np.argsort([len(row.ids) for row in rows], kind="stable")
        parts: list[NDArray[np.float32]] = []
        for begin in range(0, len(rows), _ROWS):
            chosen = [rows[place] for place in order[begin : begin + _ROWS]]
            shape = len(chosen), max(len(row.ids) for row in chosen)
            inputs = {name: np.zeros(shape, np.int64) for name in names}
            for place, row in enumerate(chosen):
                values = {"input_ids": row.ids, "attention_mask": row.attention_mask, "token_type_ids": row.type_ids}
                for name in names:
                    inputs[name][place, : len(row.ids)] = values[name]
            parts.append(cast("NDArray[np.float32]", session.run(None, inputs)[0]))
        return np.concatenate(parts)[np.argsort(order, kind="stable")]

    return run


class QuantizedClassifier:
    """The gate's view of a compiled classifier: the rows of the one in FP32, the scores of ONNX Runtime."""

    def __init__(self, exact: Classifier, run: Callable[[Sequence[Encoding]], NDArray[np.float32]]) -> None:
        self._exact, self._run = exact, run

    def classify(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """As `Classifier.classify`."""
        return self._scored(self._exact.rows(texts))

    def rerank(self, query: str, documents: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """As `Classifier.rerank`."""
        scores, tokens = self._scored(self._exact.pairs(query, documents))
        return scores.reshape(-1), tokens

    def _scored(self, rows: Sequence[Encoding]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        return self._run(rows), np.array([len(row.ids) for row in rows], np.int32)

"""Encoders as Triton models; runs inside Triton's Python backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports] - exists inside Triton alone

from moltbot_models.encoder import Classifier, Encoder, EncoderConfig
from moltbot_models.encoder.rows import by_query
from moltbot_models.engine.config import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from tokenizers import Encoding


class EmbeddingBackend:
    """Embeds the texts of all requests of a dynamic batch together.

    Args:
        parameters: Of the model's configuration: `path`, and the options of `EncoderConfig`.
    """

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._encoder = Encoder.load(Path(parameters["path"]), EncoderConfig.of(parameters))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch: TEXT, bytes [n, 1] → EMBEDDING, f32 [n, dimensions], and TOKENS, i32 [n, 1]."""
        texts = [_column(request, "TEXT") for request in requests]
        try:
            vectors, tokens = self._encoder.embed_counted([text for part in texts for text in part])
        except Exception as error:  # noqa: BLE001 - Triton would kill the model; the next batch can go well
            return [_failed(error) for _ in requests]
        return _parts("EMBEDDING", vectors, tokens, [len(part) for part in texts])

    def close(self) -> None:
        """Nothing is under way between batches."""


class ScoringBackend:
    """Classifies texts, or ranks them for queries, of all requests of a dynamic batch together.

    Args:
        parameters: As of `EmbeddingBackend`, and `task`: `rerank` or `classification`.
    """

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._classifier = Classifier.load(Path(parameters["path"]), EncoderConfig.of(parameters))
        self._ranks = parameters["task"] == "rerank"

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch: TEXT and, to rank, QUERY, bytes [n, 1] → SCORES, f32 [n, classes], and TOKENS, i32 [n, 1]."""
        parts: list[list[Encoding] | Exception] = [self._rows(request) for request in requests]
        rows = [row for part in parts if isinstance(part, list) for row in part]
        try:
            scores, tokens = self._classifier.score(rows)
        except Exception as error:  # noqa: BLE001 - as above
            return [_failed(error) for _ in requests]
        answers = iter(_parts("SCORES", scores, tokens, [len(part) for part in parts if isinstance(part, list)]))
        return [next(answers) if isinstance(part, list) else _failed(part) for part in parts]

    def _rows(self, request: Any) -> list[Encoding] | Exception:
        try:
            texts = _column(request, "TEXT")
            if not self._ranks:
                return self._classifier.rows(texts)
            pairs = by_query(_column(request, "QUERY"), texts)
            return [row for query, some in pairs for row in self._classifier.pairs(query, some)]
        except Exception as error:  # noqa: BLE001 - one request's failure is not the others'
            return error

    def close(self) -> None:
        """Nothing is under way between batches."""


def _column(request: Any, name: str) -> list[str]:
    column = pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)
    return [cast("bytes", text).decode("utf-8", "replace") for text in column]


def _failed(error: Exception) -> Any:
    if isinstance(error, EngineError):
        said = f"{error.reason}: {error}"
    else:
        said = f"ENGINE_FAILED: the encoder failed: {type(error).__name__}"
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(said))


def _parts(name: str, values: NDArray[np.float32], tokens: NDArray[np.int32], sizes: Sequence[int]) -> list[Any]:
    ends = np.cumsum(sizes)
    return [
        pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.ascontiguousarray(values[end - size : end])),
                pb_utils.Tensor("TOKENS", np.ascontiguousarray(tokens[end - size : end].reshape(-1, 1))),
            ]
        )
        for size, end in zip(sizes, ends, strict=True)
    ]

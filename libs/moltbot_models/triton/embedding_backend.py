"""The encoder as a Triton model; runs inside Triton's Python backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports] - exists inside Triton alone

from moltbot_models.encoder import Encoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moltbot_models.encoder import Precision


class EmbeddingBackend:
    """Embeds the texts of all requests of a dynamic batch together.

    Args:
        parameters: Of the model's configuration: `path`, `threads`, `precision`.
    """

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._encoder = Encoder.load(
            Path(parameters["path"]),
            threads=int(parameters["threads"]),
            precision=cast("Precision", parameters["precision"]),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch: TEXT, bytes [n, 1] → EMBEDDING, f32 [n, dimensions], and TOKENS, i32 [n, 1]."""
        texts: list[str] = []
        ends: list[int] = []
        for request in requests:
            column = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().reshape(-1)
            texts += [cast("bytes", text).decode("utf-8", "replace") for text in column]
            ends.append(len(texts))
        try:
            vectors, tokens = self._encoder.embed_counted(texts)
        except Exception as error:  # noqa: BLE001 - Triton would kill the model; the next batch can go well
            failure = pb_utils.TritonError(f"ENGINE_FAILED: the encoder failed: {type(error).__name__}")
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor("EMBEDDING", np.ascontiguousarray(vectors[begin:end])),
                    pb_utils.Tensor("TOKENS", np.ascontiguousarray(tokens[begin:end].reshape(-1, 1))),
                ]
            )
            for begin, end in zip([0, *ends[:-1]], ends, strict=True)
        ]

    def close(self) -> None:
        """Nothing is under way between batches."""

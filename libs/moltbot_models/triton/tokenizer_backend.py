"""An encoder's tokenizer as a Triton model, for ensembles with engines that take token ids; runs inside Triton."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports] - exists inside Triton alone
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CHARACTERS_PER_TOKEN = 64
"""What is read of a text for each token that the model takes, as in `moltbot_models.encoder.runtime`."""


class TokenizerBackend:
    """Turns texts into token ids, padded to a multiple of `bucket_tokens`: requests of like length share a batch.

    Args:
        parameters: Of the model's configuration: `path`, `max_tokens`, `bucket_tokens`.
    """

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._tokenizer = Tokenizer.from_file(str(Path(parameters["path"]) / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._most, self._bucket = int(parameters["max_tokens"]), int(parameters["bucket_tokens"])
        self._tokenizer.enable_truncation(self._most)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """TEXT, bytes [n, 1] → INPUT_IDS and ATTENTION_MASK, i64 [n, length], and TOKENS, i32 [n, 1]."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        column = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().reshape(-1)
        most = self._most * _CHARACTERS_PER_TOKEN
        texts = [cast("bytes", text).decode("utf-8", "replace")[:most] for text in column]
        rows = [row.ids for row in self._tokenizer.encode_batch(texts)]
        longest = max(map(len, rows))
        width = min(-(-longest // self._bucket) * self._bucket, self._most)
        ids = np.zeros((len(rows), width), np.int64)
        mask = ids.copy()
        for place, row in enumerate(rows):
            ids[place, : len(row)], mask[place, : len(row)] = row, 1
        tokens = mask.sum(1, keepdims=True).astype(np.int32)
        found = {"INPUT_IDS": ids, "ATTENTION_MASK": mask, "TOKENS": tokens}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in found.items()])

    def close(self) -> None:
        """Nothing is under way between batches."""

"""An encoder's tokenizer as a Triton model, for ensembles with engines that take token ids; runs inside Triton."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports] - exists inside Triton alone
from tokenizers import Tokenizer

from moltbot_models.encoder.rows import by_query, pair_rows, text_rows
from moltbot_models.engine.config import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenizers import Encoding


class TokenizerBackend:
    """Turns texts into token ids, padded to a multiple of `bucket_tokens`: requests of like length share a batch.

    Args:
        parameters: Of the model's configuration: `path`, `max_tokens`, `bucket_tokens`; for a model of pairs `head` is
            `rerank`, and `kinds` is `true` where it tells them apart by token types.
    """

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._tokenizer = Tokenizer.from_file(str(Path(parameters["path"]) / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._most, self._bucket = int(parameters["max_tokens"]), int(parameters["bucket_tokens"])
        self._pairs = parameters.get("head") == "rerank"
        self._kinds = parameters.get("kinds") == "true"

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer TEXT and, to rank, QUERY, bytes [n, 1].

        Gives INPUT_IDS, ATTENTION_MASK and, where the model takes them, TOKEN_TYPE_IDS, i64 [n, length], and TOKENS,
        i32 [n, 1].
        """
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            rows = self._rows(request)
        except EngineError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{error.reason}: {error}"))
        longest = max(len(row.ids) for row in rows)
        width = min(-(-longest // self._bucket) * self._bucket, self._most)
        names = ["INPUT_IDS", "ATTENTION_MASK", *(["TOKEN_TYPE_IDS"] if self._kinds else [])]
        found = {name: np.zeros((len(rows), width), np.int64) for name in names}
        for place, row in enumerate(rows):
            values = {"INPUT_IDS": row.ids, "ATTENTION_MASK": row.attention_mask, "TOKEN_TYPE_IDS": row.type_ids}
            for name in names:
                found[name][place, : len(row.ids)] = values[name]
        tokens = found["ATTENTION_MASK"].sum(1, keepdims=True).astype(np.int32)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, values) for name, values in {**found, "TOKENS": tokens}.items()]
        )

    def _rows(self, request: Any) -> list[Encoding]:
        texts = _column(request, "TEXT")
        if not self._pairs:
            return text_rows(self._tokenizer, texts, self._most)
        pairs = by_query(_column(request, "QUERY"), texts)
        return [row for query, some in pairs for row in pair_rows(self._tokenizer, query, some, self._most)]

    def close(self) -> None:
        """Nothing is under way between batches."""


def _column(request: Any, name: str) -> list[str]:
    column = pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)
    return [cast("bytes", text).decode("utf-8", "replace") for text in column]

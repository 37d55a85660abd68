"""The eyes of a vision-language model as a Triton model, in front of its text model; runs inside Triton.

The images of all requests of a dynamic batch are encoded together. Requests without images pass through.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports] - exists inside Triton alone

from moltbot_models.engine.architecture import read_architecture
from moltbot_models.engine.config import EngineError, checked
from moltbot_models.engine.images import images_of
from moltbot_models.engine.options import config_of
from moltbot_models.vision.encoder import VisionEncoder
from moltbot_models.wire import STATISTICS, decode_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moltbot_models.vision.picture import Picture, Prepared

DIGEST_BYTES = 32


class VisionBackend:
    """Turns the images of requests into rows for the text model.

    Args:
        parameters: Of the model's configuration: `path` and the fields of `EngineConfig`.
    """

    def __init__(self, parameters: Mapping[str, str]) -> None:
        path, config = Path(parameters["path"]), checked(config_of(parameters))
        self._encoder = VisionEncoder.open(path, config)
        self._shape = self._encoder.shape
        tree = json.loads((path / "config.json").read_bytes())
        self._context_length = read_architecture(tree, config.context_length).context_length

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch: REQUEST, bytes [1, 1] → ROWS, f32 [1, images, tokens, width], DIGESTS, u8 [1, images, 32]."""
        parts = [self._prepared(request) for request in requests]
        try:
            pictures = iter(self._encoder.run([one for part in parts if isinstance(part, list) for one in part]))
        except EngineError as error:
            return [_failed(error) for _ in requests]
        return [
            self._answer([next(pictures) for _ in part]) if isinstance(part, list) else _failed(part) for part in parts
        ]

    def _prepared(self, request: Any) -> list[Prepared] | Exception:
        try:
            data = bytes(pb_utils.get_input_tensor_by_name(request, "REQUEST").as_numpy().reshape(-1)[0])
            if data == STATISTICS:
                return []
            images = images_of(decode_request(data)[0].messages, taken=True)
            self._require_context(len(images))
            return self._encoder.prepare(images)
        except Exception as error:  # noqa: BLE001 - one request's failure is not the others'
            return error

    def _require_context(self, images: int) -> None:
        """Refuse what the text model would refuse for its length, before all the work."""
        tokens, most = images * self._shape.tokens, self._context_length
        if tokens >= most:
            raise EngineError(
                "REQUEST_TOO_LARGE",
                f"the prompt has {tokens} tokens of {images} images alone, prompt and answer together may have {most}",
            )

    def _answer(self, pictures: list[Picture]) -> Any:
        rows = np.zeros((1, len(pictures), self._shape.tokens, self._shape.text_hidden), np.float32)
        digests = np.zeros((1, len(pictures), DIGEST_BYTES), np.uint8)
        for number, picture in enumerate(pictures):
            rows[0, number] = picture.rows
            digests[0, number] = np.frombuffer(picture.digest, np.uint8)
        return pb_utils.InferenceResponse([pb_utils.Tensor("ROWS", rows), pb_utils.Tensor("DIGESTS", digests)])

    def close(self) -> None:
        """Nothing is under way between batches."""


def _failed(error: Exception) -> Any:
    if isinstance(error, EngineError):
        said = f"{error.reason}: {error}"
    elif isinstance(error, ValueError):
        said = f"INVALID_ARGUMENT: REQUEST cannot be read: {type(error).__name__}"
    else:
        said = f"ENGINE_FAILED: the vision tower failed: {type(error).__name__}"
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(said))

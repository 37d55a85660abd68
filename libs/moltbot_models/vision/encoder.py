"""A compiled vision tower: images of one request or of many become rows of a text model, some at a time."""

from __future__ import annotations

import hashlib
import json
import threading
from typing import TYPE_CHECKING, Literal

import numpy as np
import openvino as ov

from moltbot_models.engine.architecture import read_architecture
from moltbot_models.engine.config import EngineError
from moltbot_models.engine.safetensors import Checkpoint
from moltbot_models.vision.graph import build_vision_graph
from moltbot_models.vision.picture import Picture, Prepared
from moltbot_models.vision.preprocessing import check_together, read_preprocessing
from moltbot_models.vision.shape import read_vision

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from moltbot_models.engine.config import EngineConfig
    from moltbot_models.vision.preprocessing import Preprocessing
    from moltbot_models.vision.shape import VisionShape


class VisionEncoder:
    """The eyes of one model on this machine's CPU; made by `load`. Thread-safe: calls take turns."""

    def __init__(
        self, compiled: ov.CompiledModel, shape: VisionShape, preprocessing: Preprocessing, batch_images: int
    ) -> None:
        self.shape = shape
        self._preprocessing = preprocessing
        self._batch_images = batch_images
        self._request = compiled.create_infer_request()
        # Decoding, too, is done one by one: an image of the largest size takes 300 MB while it is unpacked.
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        path: Path,
        shape: VisionShape,
        checkpoint: Checkpoint,
        *,
        compute: Literal["f32", "bf16"] = "f32",
        threads: int = 0,
        batch_images: int = 8,
    ) -> VisionEncoder:
        """Read the preprocessing and compile the tower.

        Args:
            path: The model's directory.
            shape: Of its eyes.
            checkpoint: Its tensors.
            compute: Arithmetic.
            threads: Of the arithmetic; 0 takes every core.
            batch_images: Images of one run, at most; with 1 an image's rows are the same whatever stands beside it.

        Raises:
            EngineError: `MODEL_UNSUPPORTED`, `MODEL_INVALID`, or `ENGINE_FAILED` if OpenVINO refuses the tower.
        """
        preprocessing = read_preprocessing(path, shape.image_size)
        options = {"INFERENCE_PRECISION_HINT": compute, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        try:
            model = build_vision_graph(shape, checkpoint, compute)
            compiled = ov.Core().compile_model(
                model, "CPU", options | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
            )
        except RuntimeError as error:
            raise EngineError(
                "ENGINE_FAILED", f"OpenVINO cannot compile the vision tower in {path}: {error}"
            ) from error
        return cls(compiled, shape, preprocessing, batch_images)

    @classmethod
    def open(cls, path: Path, config: EngineConfig) -> VisionEncoder:
        """Load the eyes of a directory without its text model; as `load`.

        Raises:
            EngineError: Also `MODEL_UNSUPPORTED` for a model of text alone.
        """
        tree = json.loads((path / "config.json").read_bytes())
        text = read_architecture(tree, config.context_length)
        shape = read_vision(tree, text.hidden_size, text.vocabulary)
        if shape is None:
            raise EngineError("MODEL_UNSUPPORTED", f"{path}: config.json describes no vision tower")
        return cls.load(
            path,
            shape,
            Checkpoint(path),
            compute=config.compute,
            threads=config.threads,
            batch_images=config.batch_images,
        )

    def encode(self, images: Sequence[tuple[str, bytes]]) -> list[Picture]:
        """Encode images, given as their places in the request and their files.

        Raises:
            EngineError: `INVALID_ARGUMENT` naming the place of an image that is refused, `ENGINE_FAILED`.
        """
        return self.run(self.prepare(images))

    def prepare(self, images: Sequence[tuple[str, bytes]]) -> list[Prepared]:
        """Decode the images of one request, given as for `encode`.

        Raises:
            EngineError: `INVALID_ARGUMENT` naming the place of an image that is refused.
        """
        check_together([(place, self._preprocessing.area(data, place)) for place, data in images])
        found: list[Prepared] = []
        for place, data in images:
            with self._lock:
                found.append(Prepared(hashlib.sha256(data).digest(), self._preprocessing.pixels(data, place)))
        return found

    def run(self, images: Sequence[Prepared]) -> list[Picture]:
        """Encode decoded images, of whichever requests.

        Raises:
            EngineError: `ENGINE_FAILED`.
        """
        found: list[Picture] = []
        size = self._batch_images
        for begin in range(0, len(images), size):
            part = images[begin : begin + size]
            with self._lock:
                try:
                    self._request.infer({"pixels": np.stack([image.pixels for image in part])})
                except RuntimeError as error:
                    raise EngineError("ENGINE_FAILED", "the vision tower failed") from error
                # The output's memory belongs to the next call.
                rows: NDArray[np.float32] = self._request.get_output_tensor(0).data.copy()
            found += [Picture(image.digest, rows[number]) for number, image in enumerate(part)]
        return found

"""The baseline in Triton: ONNX Runtime in FP32 behind the Python backend, each request by itself, as it comes."""

import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


class TritonPythonModel:
    """TEXT → EMBEDDING and TOKENS, as the mesh's own encoders have them."""

    def initialize(self, args):
        """Open the ONNX file."""
        found = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        sys.path.append(found["site"])
        import onnxruntime  # noqa: PLC0415 - found by the line above

        self._session = onnxruntime.InferenceSession(found["file"], providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(Path(found["path"]) / "tokenizer.json"))
        self._tokenizer.enable_padding()
        self._tokenizer.enable_truncation(256)

    def execute(self, requests):
        """Answer each request alone."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        column = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().reshape(-1)
        rows = self._tokenizer.encode_batch([text.decode() for text in column])
        ids = np.array([row.ids for row in rows], np.int64)
        mask = np.array([row.attention_mask for row in rows], np.int64)
        (vectors,) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
        tokens = mask.sum(1, keepdims=True).astype(np.int32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("EMBEDDING", vectors), pb_utils.Tensor("TOKENS", tokens)])

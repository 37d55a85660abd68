"""Writes a model's tokenizer as openvino-genai reads it: `genai_tokenizer.py MODEL OUT`.

Runs in the baseline's environment (benchmarks/requirements.txt): the conversion needs transformers.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] - else OpenVINO reports home

import openvino as ov
from openvino_tokenizers import convert_tokenizer
from transformers import PreTrainedTokenizerFast

source, out = Path(sys.argv[1]), Path(sys.argv[2])
tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), eos_token="<|im_end|>")
encodes, decodes = convert_tokenizer(tokenizer, with_detokenizer=True)
ov.save_model(encodes, out / "openvino_tokenizer.xml")
ov.save_model(decodes, out / "openvino_detokenizer.xml")

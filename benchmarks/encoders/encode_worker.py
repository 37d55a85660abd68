"""Encodes texts with one engine: `encode_worker.py ours MODEL PRECISION` or `encode_worker.py ort MODEL ONNX MODE`.

MODE is how a batch is given to ONNX Runtime: `padded` as it comes, `sorted` by length in parts of 8, `single` one by
one.
Lines of JSON come in: `{"texts": […], "keep": FILE}`; what a batch took goes out.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
MOST_TOKENS = 256


def ours(model: str, precision: str):
    sys.path.insert(0, str(ROOT / "libs"))
    from moltbot_models.encoder import Encoder, EncoderConfig  # noqa: PLC0415 - not in the baselines' environment

    encoder = Encoder.load(Path(model), EncoderConfig(precision, threads=1))
    return lambda texts: encoder.embed(texts)[0]


def onnx_runtime(model: str, file: str, mode: str):
    import onnxruntime  # noqa: PLC0415 - only in the baselines' environment

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST_TOKENS)

    def run(texts: list[str]) -> np.ndarray:
        rows = [row.ids for row in tokenizer.encode_batch(texts)]
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = ids.copy()
        for place, row in enumerate(rows):
            ids[place, : len(row)], mask[place, : len(row)] = row, 1
        return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]

    def parts(texts: list[str]) -> np.ndarray:
        size = {"padded": len(texts), "sorted": 8, "single": 1}[mode]
        order = sorted(range(len(texts)), key=lambda n: len(texts[n])) if mode == "sorted" else list(range(len(texts)))
        found = np.concatenate([run([texts[n] for n in order[b : b + size]]) for b in range(0, len(texts), size)])
        return found[np.argsort(order)]

    return parts


def rss_mib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20


def main() -> None:
    kind, *rest = sys.argv[1:]
    encode = ours(*rest) if kind == "ours" else onnx_runtime(*rest)
    print(json.dumps({"rss_mib": rss_mib()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        cpu, wall = time.process_time(), time.perf_counter()
        vectors = encode(asked["texts"])
        took = {"cpu_ms": 1e3 * (time.process_time() - cpu), "wall_ms": 1e3 * (time.perf_counter() - wall)}
        if asked.get("keep"):
            np.save(asked["keep"], vectors)
        print(json.dumps({**took, "rss_mib": rss_mib()}), flush=True)


main()

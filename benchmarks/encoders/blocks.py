"""The blocks of encoders: vectors beside ONNX Runtime's, in process and through Triton."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BASELINE = ROOT / "build" / "bench-venv" / "bin" / "python"
_ONES = ("ort single", "ort padded", "ort sorted", "f32", "bf16", "int8")


class Worker:
    """A process that answers lines of JSON."""

    def __init__(self, *argv: object) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.hello = self._read()

    def ask(self, **asked: object) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a benchmark's worker ended with {self._process.wait()}")
        return json.loads(line)


def encoder(repeats: int) -> None:
    """Vectors in process, one thread, batches of 1, 8 and 32."""
    from encoders.texts import paragraphs  # noqa: PLC0415 - beside this file

    from moltbot_models.gate.encoder import agreement  # noqa: PLC0415 - after sys.path

    texts = paragraphs()
    with tempfile.TemporaryDirectory(prefix="bench-encoder-") as scratch:
        model, file = prepared(Path(scratch))
        workers = {
            name: Worker(BASELINE, HERE / "encode_worker.py", "ort", model, file, name.removeprefix("ort "))
            if name.startswith("ort")
            else Worker(sys.executable, HERE / "encode_worker.py", "ours", model, name)
            for name in _ONES
        }
        print("\nembeddings in process, MiniLM-L6, one thread: CPU ms a batch; × ONNX Runtime at its quickest")
        print(f"{'':<14}" + "".join(f"{f'batch {size}':>18}" for size in (1, 8, 32)) + f"{'top-10 kept':>14}{'MiB':>8}")
        found: dict[str, dict[int, float]] = {name: {} for name in _ONES}
        for size in (1, 8, 32):
            batches = [texts[200 + size * n : 200 + size * (n + 1)] for n in range(8)]
            took: dict[str, list[float]] = {name: [] for name in _ONES}
            for turn in range(repeats + 1):
                for name, worker in workers.items():
                    total = sum(worker.ask(texts=batch)["cpu_ms"] for batch in batches) / len(batches)
                    if turn:  # the first compiles kernels
                        took[name].append(total)
            for name in _ONES:
                found[name][size] = statistics.median(took[name])
        exact = None
        for name, worker in workers.items():
            kept = Path(scratch) / "vectors.npy"
            memory = worker.ask(texts=texts, keep=str(kept))["rss_mib"]
            vectors = np.load(kept)
            exact = vectors if exact is None else exact
            cells = ""
            for size in (1, 8, 32):
                best = min(found[one][size] for one in _ONES if one.startswith("ort"))
                cells += f"{found[name][size]:>9.1f}{best / found[name][size]:>8.2f}×"
            print(f"{name:<14}{cells}{agreement(exact, vectors, 10).mean():>14.4f}{memory:>8}")
            worker.close()


def encoder_triton(repeats: int) -> None:
    """Vectors through Triton, clients that never pause."""
    from moltbot_models.encoder import EncoderConfig  # noqa: PLC0415 - after sys.path

    with tempfile.TemporaryDirectory(prefix="bench-encoder-") as scratch:
        model, file = prepared(Path(scratch))
        site = subprocess.run(
            [BASELINE, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        worker = Worker(sys.executable, HERE / "triton_worker.py", model, file, site)
        names = ["ours", "delay_500us", "unbatched", "ours_f32", "ours_bf16", "ort"]
        memory = {name: {"loaded": worker.hello[name]} for name in names}
        print(
            f"\nembeddings through Triton, MiniLM-L6, one text a request; ours in {EncoderConfig().arithmetic};"
            " ort: ONNX Runtime FP32, unbatched"
        )
        print(
            f"{'':<26}{'texts a s':>10}{'× ort':>8}{'× unbatched':>13}{'p50 ms':>9}{'p99 ms':>9}{'CPU ms':>8}{'MiB':>7}"
        )
        for clients in (1, 8, 32):
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for turn in range(repeats + 1):
                for name in names:
                    answer = worker.ask(model=name, clients=clients, seconds=3.0)
                    if turn:
                        rounds[name].append(answer)
            rows = {
                name: {key: statistics.median(r[key] for r in rounds[name]) for key in rounds[name][0]}
                for name in names
            }
            for name, row in rows.items():
                per_s = row["per_s"]
                print(
                    f"{f'{name}, {clients} clients':<26}{per_s:>10.0f}{per_s / rows['ort']['per_s']:>7.2f}×"
                    f"{per_s / rows['unbatched']['per_s']:>12.2f}×{row['p50_ms']:>9.1f}{row['p99_ms']:>9.1f}"
                    f"{row['cpu_ms']:>8.2f}{row['rss_mib']:>7.0f}",
                    flush=True,
                )
                memory[name][f"{clients} clients"] = rounds[name][-1]
        worker.close()
        _show_memory(memory)


def _show_memory(memory: dict[str, dict[str, dict[str, float]]]) -> None:
    """Of the model's process in Triton: in no file / resident, MiB, and its difference to both servers in FP32."""
    print("\nmemory of the model's process, MiB: its own / resident (with shared pages of libraries)")
    stages = list(memory["ours"])
    print(f"{'':<26}" + "".join(f"{stage:>16}" for stage in stages))
    for name in ("ours", "ours_f32", "ours_bf16", "ort"):
        cells = [f"{memory[name][stage]['own_mib']:.0f} / {memory[name][stage]['rss_mib']:.0f}" for stage in stages]
        print(f"{name:<26}" + "".join(f"{cell:>16}" for cell in cells))
    for base in ("ort", "ours_f32"):
        cells: list[str] = []
        for stage in stages:
            ours, theirs = memory["ours_bf16"][stage], memory[base][stage]
            cells.append(" / ".join(f"{ours[key] / theirs[key] - 1:+.0%}" for key in ("own_mib", "rss_mib")))
        print(f"{f'ours_bf16 against {base}':<26}" + "".join(f"{cell:>16}" for cell in cells))


def prepared(scratch: Path) -> tuple[Path, Path]:
    """A MiniLM with calibrated ranges beside it, and the same as ONNX."""
    import onnx  # noqa: PLC0415 - only where it is used

    from moltbot_models.encoder.calibrate import calibrate, write_ranges  # noqa: PLC0415 - after sys.path
    from moltbot_models.encoder.checkpoint import EncoderCheckpoint  # noqa: PLC0415
    from moltbot_models.encoder.quantized import RANGES_FILE  # noqa: PLC0415
    from moltbot_models.encoder.shape import EncoderShape  # noqa: PLC0415
    from moltbot_models.gate.texts import shipped_texts  # noqa: PLC0415
    from moltbot_models.targets.onnx_encoder import build_onnx  # noqa: PLC0415
    from moltbot_testkit.triton import embedder_path  # noqa: PLC0415

    model = scratch / "model"
    model.mkdir()
    for file in embedder_path().iterdir():
        (model / file.name).symlink_to(file)
    write_ranges(model / RANGES_FILE, calibrate(model, shipped_texts().calibration, threads=1))
    file = scratch / "model.onnx"
    onnx.save(build_onnx(EncoderShape.read(model), EncoderCheckpoint(model / "model.safetensors")), str(file))
    return model, file

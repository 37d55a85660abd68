"""The model plane beside its baselines, one table a block; every row has its baseline in the same run.

    python benchmarks/models.py                              all blocks
    python benchmarks/models.py --blocks text,arrivals       some
    python benchmarks/models.py --repeats 9                  medians of more rounds

Text: a Qwen2-like model of 126 M parameters with random weights; openvino-genai's continuous batching has the same
weights in the same precision, as a stateful OpenVINO IR. The two take turns, so that other work on the machine meets
both. Encoders: MiniLM-L6 beside ONNX Runtime in FP32. CPU time is what to compare on a shared machine; `×` is ours
divided by theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "libs"), str(ROOT / "libs/protos"), str(ROOT / "benchmarks"), str(ROOT / "benchmarks/text")]

from encoders.blocks import encoder, encoder_triton
from workload import Round, line

from moltbot_testkit.random_model import model_config, random_weights, write_model
from moltbot_testkit.stateful_ir import write_stateful_ir

TEXT_BLOCKS = (
    "text",
    "served",
    "features",
    "prefix",
    "arrivals",
    "load",
    "triton",
    "weights",
    "deterministic",
    "identity",
)
BLOCKS = (*TEXT_BLOCKS, "encoder", "encoder_triton")
TEXT = ROOT / "benchmarks" / "text"
TINY = ROOT / "libs/moltbot_models/shipped/tiny"
DETERMINISTIC = ("deterministic=true", "kv=f32")
VENV = ROOT / "build" / "bench-venv"
BASELINE = VENV / "bin" / "python"


class Engine:
    """A worker process that answers rounds."""

    def __init__(self, *argv: object) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.hello = json.loads(self._process.stdout.readline())

    def run(self, wanted: Round) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line(wanted))
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ours(model: Path, **options: object) -> Engine:
    pairs = [f"{key}={value}" for key, value in ({"kv_cache_mib": 1024, "step_tokens": 256} | options).items()]
    return Engine(sys.executable, TEXT / "engine_worker.py", model, *pairs)


def genai(ir: Path, **options: object) -> Engine:
    return Engine(BASELINE, TEXT / "genai_worker.py", ir, *(f"{key}={value}" for key, value in options.items()))


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def in_turns(first: Engine, second: Engine, wanted: Round, repeats: int, other: Round | None = None):
    """Medians of both; a round each in turn, and each round with prompts of its own."""
    pairs = []
    for turn in range(repeats):
        seed = wanted.seed + 1 + turn
        one = first.run(Round(**{**vars_of(wanted), "seed": seed}))
        two = second.run(Round(**{**vars_of(other or wanted), "seed": seed}))
        pairs.append((one, two))
    return medians([one for one, _ in pairs]), medians([two for _, two in pairs])


def vars_of(wanted: Round) -> dict[str, object]:
    return json.loads(line(wanted))


def row(label: str, one: dict[str, float], two: dict[str, float]) -> None:
    cpu, wall = one["per_cpu_s"] / two["per_cpu_s"], one["per_s"] / two["per_s"]
    print(
        f"{label:<30}{one['per_cpu_s']:>8.0f}{two['per_cpu_s']:>8.0f}{cpu:>7.2f}×{one['per_s']:>9.0f}{two['per_s']:>8.0f}"
        f"{wall:>7.2f}×{one['first_p50_ms']:>10.0f}{two['first_p50_ms']:>7.0f}{one['gap_p99_ms']:>10.0f}"
        f"{two['gap_p99_ms']:>7.0f}",
        flush=True,
    )


def head(title: str, other: str = "genai") -> None:
    print(f"\n{title}")
    print(
        f"{'':<30}{'tokens a CPU-s':>16}{'':>8}{'tokens a s':>17}{'':>8}{'first p50 ms':>17}{'gap p99 ms':>17}\n"
        f"{'':<30}{'ours':>8}{other:>8}{'':>8}{'ours':>9}{other:>8}{'':>8}{'ours':>10}{other:>7}{'ours':>10}{other:>7}"
    )


def text(model: Path, ir: Path, repeats: int) -> None:
    for compute in ("f32", "bf16"):
        with ours(model, compute=compute) as one, genai(ir, compute=compute, step_tokens=256) as two:
            head(f"text, u8 weights, {compute} arithmetic, u8 cache, 256 tokens a step, greedy")
            for tokens_in, tokens_out in ((32, 32), (256, 64)):
                for streams in (1, 8, 32):
                    wanted = Round(streams, tokens_in, tokens_out, seed=1000 * streams + tokens_in)
                    row(f"{tokens_in}/{tokens_out}, {streams} streams", *in_turns(one, two, wanted, repeats))
            memory = [engine.run(Round(1, 8, 1))["rss_mib"] for engine in (one, two)]
            print(f"memory after the rounds: {memory[0]} / {memory[1]} MiB")
            with ours(model, compute=compute, chunk_tokens=0) as batch:
                for streams in (8, 32):
                    wanted = Round(streams, 256, 64, seed=3000 * streams)
                    row(f"256/64, {streams} streams, no limit", *in_turns(batch, two, wanted, repeats))
            # Its default ties threads to cores; ours does not, which is worth the more the busier the machine is.
            with genai(ir, compute=compute, step_tokens=256, pinning="no") as free:
                for streams in (1, 8, 32):
                    wanted = Round(streams, 32, 32, seed=2000 * streams)
                    row(f"32/32, {streams} streams, none pinned", *in_turns(one, free, wanted, repeats))


def features(model: Path, ir: Path, repeats: int) -> None:
    """What the baseline has no place for, beside its plain greedy rounds."""
    with ours(model) as one, genai(ir, step_tokens=256) as two:
        head("text with what needs a hook, beside plain greedy rounds of the baseline; 32/32")
        for place, mode in enumerate(one.hello["modes"]):
            for streams in (1, 8, 32):
                # Prompts of its own for each row: the baseline would find those of the row before in its prefix cache.
                wanted = Round(streams, 32, 32, mode=mode, seed=100_000 * (place + 1) + 100 * streams)
                plain = Round(streams, 32, 32, mode="sampled" if mode == "sampled" else "greedy")
                row(f"{mode}, {streams} streams", *in_turns(one, two, wanted, repeats, plain))


def served(model: Path, ir: Path, repeats: int) -> None:
    """What a server gets of an engine: ours gives pieces to an event loop, the baseline's are fetched after a step."""
    with ours(model) as one, genai(ir, step_tokens=256) as two:
        head(
            "each piece is worked on for 60 us in the interpreter, as a server does that sends it on; 32/64;\n"
            "ours in an event loop, which takes pieces that wait as one, the baseline between its steps, each by itself"
        )
        for streams in (1, 8, 32):
            wanted = Round(streams, 32, 64, work_us=60.0, seed=700_000 + 100 * streams)
            row(f"{streams} streams", *in_turns(one, two, wanted, repeats))


def prefix(model: Path, ir: Path, repeats: int) -> None:
    with ours(model) as one, genai(ir, step_tokens=256) as two:
        head("a shared beginning of 768 tokens, 800/32")
        for streams in (1, 8, 32):
            wanted = Round(streams, 800, 32, shared=768, seed=9000 + streams)
            for engine in (one, two):
                engine.run(Round(1, 800, 1, shared=768, seed=9000 + streams))
            row(f"{streams} streams", *in_turns(one, two, wanted, repeats))


def arrivals(model: Path, ir: Path, repeats: int) -> None:
    head("open loop, 256/64, 40 arrivals; the baseline at its defaults and at 128 tokens a step")
    with ours(model) as one:
        # The slower machines are overloaded by the first rate: there the second tells what people see.
        rows = itertools.product((0.25, 0.5), (("defaults", {}), ("at 128", {"step_tokens": 128})))
        for place, (interval_s, (label, options)) in enumerate(rows):
            # Prompts of its own for each row: ours would find those of the row before in its prefix cache.
            wanted = Round(40, 256, 64, interval_s=interval_s, seed=11_000 + 100 * place)
            with genai(ir, **options) as two:
                row(f"one each {interval_s} s, {label}", *in_turns(one, two, wanted, max(1, repeats // 2)))


def load(model: Path, ir: Path, repeats: int) -> None:
    """From nothing to the first token of a directory, in a new process each."""
    print(f"\n{'from the directory to the first token, s':<44}{'ours':>8}{'genai':>8}   (engine alone / whole process)")
    figures: dict[str, list[tuple[float, float]]] = {"ours": [], "genai": []}
    for _ in range(max(1, repeats // 2)):
        for name, start in (("ours", lambda: ours(model)), ("genai", lambda: genai(ir))):
            began = time.perf_counter()
            with start() as engine:
                figures[name].append((engine.hello["load_s"], time.perf_counter() - began))
    for place, label in enumerate(("loading", "process start to first token")):
        values = [statistics.median(one[place] for one in figures[name]) for name in ("ours", "genai")]
        print(f"{label:<44}{values[0]:>8.2f}{values[1]:>8.2f}")


def triton(model: Path, _ir: Path, repeats: int) -> None:
    options = [f"{key}={value}" for key, value in {"kv_cache_mib": 1024, "step_tokens": 256}.items()]
    with Engine(sys.executable, TEXT / "triton_worker.py", model, *options) as one, ours(model) as two:
        head("through Triton (its CPU, the client's too), beside the same engine in process", "direct")
        for streams in (1, 8, 32):
            row(f"32/32, {streams} streams", *in_turns(one, two, Round(streams, 32, 32, seed=500 + streams), repeats))
        print(f"load in Triton {one.hello['load_s']:.2f} s, memory {one.hello['rss_mib']} MiB")


def weights(model: Path, _ir: Path, repeats: int) -> None:
    """What 4 bits are worth; whether a model bears them is the accuracy gate's to say, random weights say nothing."""
    for compute in ("f32", "bf16"):
        with ours(model, weights="u4", compute=compute) as one, ours(model, compute=compute) as two:
            head(f"u4 weights beside u8, {compute} arithmetic, u8 cache", "u8")
            for tokens_in, tokens_out in ((32, 32), (256, 64)):
                for streams in (1, 8, 32):
                    wanted = Round(streams, tokens_in, tokens_out, seed=2000 * streams + tokens_in)
                    row(f"{tokens_in}/{tokens_out}, {streams} streams", *in_turns(one, two, wanted, repeats))
            memory = [engine.run(Round(1, 8, 1))["rss_mib"] for engine in (one, two)]
            loads = [engine.hello["load_s"] for engine in (one, two)]
            print(f"memory after the rounds: {memory[0]} / {memory[1]} MiB, load {loads[0]:.2f} / {loads[1]:.2f} s")


def deterministic(model: Path, _ir: Path, repeats: int) -> None:
    with ours(model, deterministic="true", kv="f32") as one, ours(model) as two:
        head("deterministic mode, beside the default", "default")
        for streams in (1, 8, 32):
            row(f"32/32, {streams} streams", *in_turns(one, two, Round(streams, 32, 32, seed=800 + streams), repeats))


def identity(model: Path, _ir: Path, _repeats: int) -> None:
    """Whether the same seed gives the same text alone and in a full batch; the shipped model has been trained."""
    print("\nsampled texts of 64 tokens (temperature 0.8, a seed each), alone and 96 at once: how many differ")
    for label, directory in (("trained, 2.9 M", TINY), ("random, 126 M", model)):
        for mode, options in (
            ("default", ("compute=f32",)),
            ("bf16", ("compute=bf16",)),
            ("deterministic", DETERMINISTIC),
        ):
            argv = [sys.executable, TEXT / "identity_worker.py", directory, "96", *options]
            done = subprocess.run([str(part) for part in argv], check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
            first = f", the first after {found['after'][0]} tokens" if found["after"] else ""
            print(f"{label}, {mode:<16}{found['differ']:>4} of {found['requests']}{first}", flush=True)


def random_130m(directory: Path, ir: Path) -> None:
    """Write a model of the size that small assistants have, for the engine and, the same weights, as IR."""
    config = model_config(
        "qwen2",
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=16,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=64,
        vocab_size=16384,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    weights = {name: value.astype(np.float16) for name, value in random_weights(config).items()}
    write_model(directory, config, weights)
    ir.mkdir()
    write_stateful_ir(ir, config, weights, "u8")
    for name in ("config.json", "generation_config.json"):
        shutil.copy(directory / name, ir)
    command = [str(BASELINE), str(TEXT / "genai_tokenizer.py"), str(directory), str(ir)]
    subprocess.run(command, check=True, capture_output=True)


def prepare_baseline() -> None:
    """The baseline's environment, made once."""
    stamp = VENV / "requirements.txt"
    wanted = (ROOT / "benchmarks" / "requirements.txt").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print("preparing the baselines' environment (openvino-genai, transformers, onnxruntime)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    pip = [str(BASELINE), "-m", "pip", "install", "--quiet", "--requirement"]
    subprocess.run([*pip, str(ROOT / "benchmarks" / "requirements.txt")], check=True)
    stamp.write_text(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", default=",".join(BLOCKS), help=", ".join(BLOCKS))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    wanted = arguments.blocks.split(",")
    if unknown := set(wanted) - set(BLOCKS):
        parser.error(f"no block {', '.join(sorted(unknown))}; there are {', '.join(BLOCKS)}")
    prepare_baseline()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        model, ir = Path(scratch) / "model", Path(scratch) / "ir"
        if set(wanted) & set(TEXT_BLOCKS):
            random_130m(model, ir)
        for block in wanted:
            with contextlib.suppress(KeyboardInterrupt):
                if block in TEXT_BLOCKS:
                    globals()[block](model, ir, arguments.repeats)
                else:
                    {"encoder": encoder, "encoder_triton": encoder_triton}[block](arguments.repeats)


if __name__ == "__main__":
    main()

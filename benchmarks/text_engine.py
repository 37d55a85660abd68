"""Tokens per CPU-second of the text engine at 1, 8 and 32 streams.

    python benchmarks/text_engine.py                        the shipped model
    python benchmarks/text_engine.py --random-130m          a Qwen2-like model with random weights, 130 M parameters
    python benchmarks/text_engine.py --model PATH --weights u8 --compute bf16

Each figure is the median of the repeats. CPU time is the process's, so other work on the machine disturbs it little.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "libs"))

from moltbot_models.engine import Candidates, EngineConfig, SamplingContext, TextEngine  # noqa: E402
from moltbot_models.generation import GenerationRequest, Sampling  # noqa: E402
from moltbot_testkit.random_model import model_config, random_weights, write_model  # noqa: E402

PROMPTS = "abcdefghijklmnopqrstuvwxyz012345"


class GumbelMark:
    """The plain Gumbel function, keyed by the last token: what a watermark costs at least."""

    def alter(self, logits, contexts) -> None:
        pass

    def choose(self, candidates: list[Candidates], contexts: list[SamplingContext]) -> list[int]:
        chosen = []
        for one, context in zip(candidates, contexts, strict=True):
            seed = context.output_tokens[-1] if context.output_tokens else 0
            noise = np.random.Generator(np.random.PCG64(seed)).random(one.log_weights.size, np.float32)
            chosen.append(one.token_at(int((one.log_weights - np.log(-np.log(noise + 1e-12))).argmax())))
        return chosen


MODES = {
    "greedy": ({"temperature": 0.0}, None),
    "top-k 50, top-p 0.9": ({"temperature": 0.8, "top_k": 50, "top_p": 0.9, "seed": 1}, None),
    "Gumbel mark at 0.8": ({"temperature": 0.8}, GumbelMark()),
    "greedy, 5 logprobs": ({"temperature": 0.0, "logprobs": True, "top_logprobs": 5}, None),
}


def round_of(engine: TextEngine, streams: int, sizes: tuple[int, int], turn: int, mode: str) -> dict:
    """Run `streams` requests at once and return what they took."""
    tokens_in, tokens_out = sizes
    sampling, hook = MODES[mode]
    ended = threading.Semaphore(0)
    firsts: list[float] = []
    gaps: list[float] = []
    errors: list[Exception] = []
    cpu, wall = time.process_time(), time.perf_counter()

    def submit(number: int) -> None:
        last = [time.perf_counter()]
        seen = [False]

        def on_delta(delta) -> None:
            now = time.perf_counter()
            (gaps if seen[0] else firsts).append(now - last[0])
            last[0], seen[0] = now, True
            if delta.finish_reason:
                ended.release()

        def on_error(error) -> None:
            errors.append(error)
            ended.release()

        # A beginning of its own keeps the prefix cache out of the figures.
        text = f"{turn}{PROMPTS[number % len(PROMPTS)]}{mode}"
        prompt = (text * tokens_in)[:tokens_in]
        wanted = Sampling(max_tokens=tokens_out, ignore_eos=True, **sampling)
        engine.submit(
            GenerationRequest("bench", prompt=prompt, sampling=wanted), on_delta, on_error=on_error, hook=hook
        )

    before = engine.stats()
    for number in range(streams):
        submit(number)
    for _ in range(streams):
        ended.acquire()
    if errors:
        raise errors[0]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    tokens = engine.stats().completion_tokens - before.completion_tokens
    return {
        "per_cpu_s": tokens / cpu,
        "per_wall_s": tokens / wall,
        "first_ms": 1e3 * statistics.median(firsts),
        "gap_p99_ms": 1e3 * float(np.percentile(gaps, 99)) if gaps else 0.0,
    }


def random_130m(directory: Path) -> Path:
    """Write a model of the size that small assistants have."""
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
    )
    weights = {name: value.astype(np.float16) for name, value in random_weights(config).items()}
    return write_model(directory, config, weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "libs/moltbot_models/shipped/tiny")
    parser.add_argument("--random-130m", action="store_true")
    parser.add_argument("--weights", default="u8", choices=["u8", "i8", "f32", "bf16"])
    parser.add_argument("--compute", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--step-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--tokens", default="32/32", help="tokens in / out")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--modes", default="0,1,2,3", help="numbers of the sampling modes to run")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    tokens_in, tokens_out = (int(number) for number in arguments.tokens.split("/"))
    sizes = (tokens_in, tokens_out)
    config = EngineConfig(
        weights=arguments.weights,
        compute=arguments.compute,
        threads=arguments.threads,
        step_tokens=arguments.step_tokens,
        deterministic=arguments.deterministic,
    )
    with tempfile.TemporaryDirectory() as scratch:
        path = random_130m(Path(scratch)) if arguments.random_130m else arguments.model
        cpu = time.process_time()
        engine = TextEngine.load(path, config)
        cpu = time.process_time() - cpu
    stats = engine.stats()
    print(f"{path.name if not arguments.random_130m else 'random 130 M'}: {stats.parameters / 1e6:.1f} M parameters")
    print(f"{config.weights} weights, {config.compute} arithmetic, {tokens_in} tokens in, {tokens_out} out")
    print(f"load {stats.load_seconds:.2f} s ({cpu:.2f} CPU-s), {stats.blocks_total} blocks of 32 tokens\n")
    print(f"{'sampling':<22}{'streams':>8}{'tok/CPU-s':>11}{'tok/s':>9}{'first ms':>10}{'gap p99 ms':>12}")
    round_of(engine, 2, sizes, 99, "greedy")
    for number in arguments.modes.split(","):
        mode = list(MODES)[int(number)]
        for streams in map(int, arguments.streams.split(",")):
            rounds = [round_of(engine, streams, sizes, turn, mode) for turn in range(arguments.repeats)]
            middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            print(
                f"{mode:<22}{streams:>8}{middle['per_cpu_s']:>11.0f}{middle['per_wall_s']:>9.0f}"
                f"{middle['first_ms']:>10.1f}{middle['gap_p99_ms']:>12.1f}",
                flush=True,
            )
    engine.close()


if __name__ == "__main__":
    main()

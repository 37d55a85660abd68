"""What is asked of an engine in a round: the same for every engine, so that rows can stand beside each other."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES = 256
"""Prompts are drawn from the 256 byte tokens of the random model's tokenizer."""


@dataclass(frozen=True, slots=True)
class Round:
    """So many streams at once, or one after another at a fixed interval."""

    streams: int
    tokens_in: int
    tokens_out: int
    shared: int = 0
    """Tokens at the beginning of all prompts that are the same."""
    interval_s: float = 0.0
    """0: all at once; else an open loop, an arrival each so many seconds."""
    work_us: float = 0.0
    """What the receiver of a piece works on it, in the interpreter, as a server does that sends it on."""
    mode: str = "greedy"
    seed: int = 0

    def prompts(self) -> list[list[int]]:
        """Token ids; beginnings differ, so that no prefix cache helps beyond what is shared."""
        draw = np.random.default_rng(self.seed)
        head = np.random.default_rng(self.shared).integers(32, 127, self.shared).tolist()
        return [head + draw.integers(32, 127, self.tokens_in - self.shared).tolist() for _ in range(self.streams)]


def work(us: float) -> None:
    """Keep the interpreter busy."""
    until = time.perf_counter() + us / 1e6
    while time.perf_counter() < until:
        pass


@dataclass(slots=True)
class Watch:
    """Times of one round, in seconds since its start, by stream."""

    cpu_of: Callable[[], float] = time.process_time
    """CPU seconds so far of all that works for the engine."""
    began: float = field(default_factory=time.perf_counter)
    cpu: float = 0.0
    arrived: dict[int, float] = field(default_factory=dict)
    tokens: dict[int, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cpu = self.cpu_of()

    def arrive(self, stream: int) -> None:
        self.arrived[stream] = time.perf_counter()
        self.tokens[stream] = []

    def token(self, stream: int, count: int = 1) -> None:
        self.tokens[stream] += [time.perf_counter()] * count

    def figures(self, count: int | None = None) -> dict[str, float]:
        """Tokens a CPU-second and a second; first token and gaps between deliveries in ms.

        Args:
            count: Tokens, where they were not noted one by one.
        """
        cpu, wall = self.cpu_of() - self.cpu, time.perf_counter() - self.began
        count = count or sum(map(len, self.tokens.values()))
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
        firsts = [1e3 * (times[0] - self.arrived[stream]) for stream, times in self.tokens.items()]
        gaps = [1e3 * gap for times in self.tokens.values() for gap in np.diff(times) if gap > 0]
        return {
            "tokens": count,
            "per_cpu_s": count / cpu,
            "per_s": count / wall,
            "first_p50_ms": float(np.percentile(firsts, 50)),
            "first_p99_ms": float(np.percentile(firsts, 99)),
            "gap_p50_ms": float(np.percentile(gaps, 50)) if gaps else 0.0,
            "gap_p99_ms": float(np.percentile(gaps, 99)) if gaps else 0.0,
            "first_last_ms": firsts[-1],
            "rss_mib": rss,
        }


def serve(run, hello: dict[str, object]) -> None:
    """Answer rounds on standard input, one JSON line each, until it ends."""
    print(json.dumps(hello), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(Round(**json.loads(line)))), flush=True)


def line(wanted: Round) -> str:
    return json.dumps(asdict(wanted)) + "\n"

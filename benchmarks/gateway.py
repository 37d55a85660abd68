"""What the gateway costs: a real `moltbot daemon` beside a bare pass-through, under the same load in the same run.

`python benchmarks/gateway.py [--seconds 3] [--rounds 3] [--clients 16] [--profile] [--mark]`

CPU is judged, not time: other work on the machine changes how long things take more than what they cost. What the
daemon does after an answer (audit, fingerprints, their index) counts: its clocks are read when that is done, and what
it costs idle is taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import msgspec
from gateway_load import Done, Job

from moltbot_testkit.mesh import DaemonMesh
from moltbot_testkit.triton import cache_dir

HERE = Path(__file__).parent
MODEL = "upstream"
PACED = "upstream-paced"
LOCAL = "moltbot-tiny"
ANSWER_TOKENS = 96
SHORT, LONG = 8, 512
"""Tokens of a streamed answer; a chunk's cost is the slope between the two."""
PACED_MS = 10.0
PACED_SHORT, PACED_LONG = 8, 136
_SETTLE_S = 5.6
"""The registry's index is brought up to date every 5 s."""
_GOAL_REQUEST_US, _GOAL_CHUNK_US, _GOAL_START_S, _GOAL_MIB = 1000, 25, 6.0, 250


def cpu_s(pid: int) -> float:
    """CPU time of a process, all its threads, also ended ones."""
    return time.clock_gettime((~pid << 3) | 2)  # Linux's clock id of another process (CPUCLOCK_SCHED)


def rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def thread_cpu_s(pid: int) -> dict[str, float]:
    """CPU time by id of thread."""
    return {
        task.name: int((task / "schedstat").read_text().split()[0]) / 1e9
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


class Child:
    """A helper process that says one thing when it serves."""

    def __init__(self, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(HERE)},
        )
        self._stdin, self._stdout = cast("IO[bytes]", self.process.stdin), cast("IO[bytes]", self.process.stdout)

    def line(self) -> str:
        line = self._stdout.readline().decode().strip()
        if not line:
            raise RuntimeError(f"{self.process.args} ended without an answer")
        return line

    def ask(self, job: Job) -> Done:
        self._stdin.write(msgspec.json.encode(job) + b"\n")
        self._stdin.flush()
        return msgspec.json.decode(self.line(), type=Done)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Side:
    """What is measured: the mesh or the pass-through."""

    name: str
    port: int
    pids: dict[str, int]

    def cpu(self) -> dict[str, float]:
        return {part: cpu_s(pid) for part, pid in self.pids.items()}


@dataclass
class Measured:
    """One side's rounds of one kind of load."""

    cpu_us: dict[str, list[float]] = field(default_factory=dict)
    """A request, by part and in all (`""`)."""
    rate: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    requests: int = 0

    def add(self, done: Done, before: dict[str, float], after: dict[str, float], idle: dict[str, float]) -> None:
        parts = {part: max(0.0, after[part] - before[part] - idle.get(part, 0.0)) for part in after}
        for part, seconds in (*parts.items(), ("", sum(parts.values()))):
            self.cpu_us.setdefault(part, []).append(seconds / done.requests * 1e6)
        self.rate.append(done.requests / done.seconds)
        self.latencies_ms += done.latencies_ms
        self.first_ms += done.first_ms
        self.requests += done.requests

    def cpu(self, part: str = "") -> float:
        return statistics.median(self.cpu_us[part])

    def at(self, quantile: float, *, first: bool = False) -> float:
        found = sorted(self.first_ms if first else self.latencies_ms)
        return found[min(len(found) - 1, int(len(found) * quantile))]


Results = dict[tuple[str, str], Measured]


class Bench:
    """The load on both sides, in turn.

    Args:
        args: The command line.
        mesh: The daemon's side.
        bare: The pass-through's.
        key: An API key.
        load: The clients.
    """

    def __init__(self, args: argparse.Namespace, mesh: Side, bare: Side, key: str, load: Child) -> None:
        self._args, self._mesh, self._bare, self._key, self._load = args, mesh, bare, key, load
        self._idle_per_s: dict[str, float] = {}
        self.results: Results = {}

    def job(self, side: Side, seconds: float, tokens: int, *, stream: bool, model: str = MODEL) -> Done:
        done = self._load.ask(Job(side.port, self._args.clients, seconds, self._key, model, tokens, stream))
        if done.failed or not done.requests:
            raise RuntimeError(
                f"{side.name}: {done.failed} of {done.requests + done.failed} failed: {done.first_failure}"
            )
        return done

    def idle(self, seconds: float) -> None:
        """What the daemon costs without any load, to be taken off."""
        before, started_s = self._mesh.cpu(), time.perf_counter()
        time.sleep(seconds)
        took_s = time.perf_counter() - started_s
        self._idle_per_s = {part: (now - before[part]) / took_s for part, now in self._mesh.cpu().items()}

    def pair(self, kind: str, tokens: int, bare: Side, *, stream: bool, model: str = MODEL) -> None:
        """The same load on the mesh and on the pass-through; what the mesh does after its answers counts as its own."""
        seconds, before, started_s = self._args.seconds, self._mesh.cpu(), time.perf_counter()
        mine = self.job(self._mesh, seconds, tokens, stream=stream, model=model)
        ended_s = time.perf_counter()
        bare_before = bare.cpu()
        theirs = self.job(bare, seconds, tokens, stream=stream, model=model)
        self.results.setdefault((bare.name, kind), Measured()).add(theirs, bare_before, bare.cpu(), {})
        time.sleep(max(0.0, ended_s + _SETTLE_S - time.perf_counter()))
        idle = {part: share * (time.perf_counter() - started_s) for part, share in self._idle_per_s.items()}
        self.results.setdefault((self._mesh.name, kind), Measured()).add(mine, before, self._mesh.cpu(), idle)

    def profile(self, file: Path, stream: bool) -> None:
        """Sample the daemon under load and print where the time goes."""
        pid = self._mesh.pids["daemon"]
        threads_before, envoy_before = thread_cpu_s(pid), cpu_s(self._mesh.pids["envoy"])
        os.kill(pid, signal.SIGUSR2)
        done = self.job(self._mesh, 2 * self._args.seconds, LONG if stream else ANSWER_TOKENS, stream=stream)
        time.sleep(_SETTLE_S)
        threads = {thread: seconds - threads_before.get(thread, 0.0) for thread, seconds in thread_cpu_s(pid).items()}
        envoy_s = cpu_s(self._mesh.pids["envoy"]) - envoy_before
        file.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR2)
        while not file.exists():
            time.sleep(0.05)
        sampled = json.loads(file.read_text())
        by_name: dict[str, float] = {}
        for thread, seconds in threads.items():
            name = sampled["threads"].get(thread) or Path(f"/proc/{pid}/task/{thread}/comm").read_text().strip()
            by_name[name] = by_name.get(name, 0.0) + seconds
        unit = f"µs a streamed answer of {LONG} chunks" if stream else "µs a request"
        print(f"\nProfile, {unit} (sampling itself costs a tenth more)")
        print(f"  {envoy_s / done.requests * 1e6:8.1f}  Envoy")
        for name, seconds in sorted(by_name.items(), key=lambda item: -item[1])[:12]:
            print(f"  {seconds / done.requests * 1e6:8.1f}  daemon, thread {name}")
        _print_stacks(sampled["stacks"], done.requests)


def _print_stacks(stacks: list[tuple[list[str], float]], requests: int) -> None:
    own: dict[str, float] = {}
    total: dict[str, float] = {}
    for stack, seconds in stacks:
        own[stack[0]] = own.get(stack[0], 0.0) + seconds
        for frame in set(stack):
            total[frame] = total.get(frame, 0.0) + seconds
    for title, found, most in (("alone", own, 40), ("with all that they call", total, 70)):
        print(f"  functions, {title}:")
        for frame, seconds in sorted(found.items(), key=lambda item: -item[1])[:most]:
            path, _, name = frame.rpartition(":")
            print(f"  {seconds / requests * 1e6:8.1f}  {'/'.join(path.split('/')[-3:])}:{name}")


def envoy_of(daemon: int) -> int:
    """The daemon's Envoy."""
    for task in Path(f"/proc/{daemon}/task").iterdir():
        for child in (task / "children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().startswith("envoy"):
                return int(child)
    raise RuntimeError("the daemon has no Envoy")


def first_answer_s(mesh: DaemonMesh, model: str, started_s: float) -> float:
    """Seconds from a start until the first answer."""
    body = json.dumps({"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    headers = {"Authorization": f"Bearer {mesh.key('bench')}", "Content-Type": "application/json"}
    while True:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{mesh.url}/v1/chat/completions", body, headers)
            ) as got:
                got.read()
                return time.perf_counter() - started_s
        except OSError:
            if time.perf_counter() - started_s > 120:
                raise
            time.sleep(0.02)


def starts(mesh: DaemonMesh, model: str, count: int) -> tuple[float, float]:
    """Start a stopped installation some times: median seconds until the first answer, and CPU seconds of it."""
    seconds, cpu = [], []
    for _ in range(count):
        started_s = time.perf_counter()
        mesh.start()
        seconds.append(first_answer_s(mesh, model, started_s))
        assert mesh.process is not None
        cpu.append(cpu_s(mesh.process.pid) + cpu_s(envoy_of(mesh.process.pid)))
        mesh.stop()
    return statistics.median(seconds), statistics.median(cpu)


def tell_starts(what: str, mesh: DaemonMesh, model: str) -> None:
    seconds, cpu = starts(mesh, model, 3)
    row(what, seconds, goal=_GOAL_START_S, digits=2)
    row("  CPU of it, s (daemon and Envoy)", cpu, digits=2)


def settings(args: argparse.Namespace, directory: Path, endpoint: str, paced: str) -> dict[str, Any]:
    """All features on; limits that are counted and never reached."""
    models = directory / "models.yaml"
    models.write_text(
        json.dumps(
            {
                "models": [
                    {"id": name, "type": "text-generation", "provider": "openai", "endpoint": where, "max_tokens": 4096}
                    for name, where in ((MODEL, endpoint), (PACED, paced))
                ]
            }
        )
    )
    limits = {"requests_per_minute": 10_000_000, "tokens_per_minute": 1_000_000_000, "mark": args.mark}
    return {
        "inference": {"engine": "none", "embedder": False},
        "router": {"models": [str(models)]},
        "gateway": {"default_limits": limits},
    }


ROW = "{:<52}{:>11}{:>11}{:>8}{:>10}"


def row(what: str, mesh: float, bare: float | None = None, goal: float | None = None, digits: int = 0) -> None:
    print(
        ROW.format(
            what,
            f"{mesh:,.{digits}f}",
            "" if bare is None else f"{bare:,.{digits}f}",
            "" if not bare else f"{mesh / bare:.1f}",
            "" if goal is None else f"≤ {goal:,.{digits}f} " + ("✓" if mesh <= goal else "✗"),
        )
    )


def slope(results: Results, name: str, kind: str, chunks: int, part: str = "") -> float:
    """CPU µs of one chunk."""
    return (results[name, f"{kind} long"].cpu(part) - results[name, f"{kind} short"].cpu(part)) / chunks


def report(args: argparse.Namespace, results: Results, memory: dict[str, tuple[float, float]]) -> None:
    mesh, bare = results["mesh", "plain"], results["bare", "plain"]
    print()
    print(ROW.format("", "moltbot", "bare", "ratio", "goal"))
    row("CPU a request, µs (Envoy and daemon)", mesh.cpu(), bare.cpu(), _GOAL_REQUEST_US)
    row("  Envoy", mesh.cpu("envoy"))
    row("  daemon", mesh.cpu("daemon"))
    row(f"requests a second, {args.clients} clients", statistics.median(mesh.rate), statistics.median(bare.rate))
    row("latency p50, ms", mesh.at(0.5), bare.at(0.5), digits=2)
    row("latency p99, ms", mesh.at(0.99), bare.at(0.99), digits=2)
    chunks = LONG - SHORT
    row(
        "CPU a streamed chunk, µs; all at once",
        slope(results, "mesh", "burst", chunks),
        slope(results, "bare", "burst", chunks),
        _GOAL_CHUNK_US,
        1,
    )
    for part in ("envoy", "daemon"):
        row(f"  {part if part != 'envoy' else 'Envoy'}", slope(results, "mesh", "burst", chunks, part), digits=1)
    chunks = PACED_LONG - PACED_SHORT
    row(
        f"CPU a streamed chunk, µs; one every {PACED_MS:g} ms",
        slope(results, "mesh", "paced", chunks),
        slope(results, "paced", "paced", chunks),
        _GOAL_CHUNK_US,
        1,
    )
    for part in ("envoy", "daemon"):
        row(f"  {part if part != 'envoy' else 'Envoy'}", slope(results, "mesh", "paced", chunks, part), digits=1)
    mine, theirs = results["mesh", "burst short"], results["bare", "burst short"]
    row(f"CPU a streamed answer of {SHORT} chunks, µs", mine.cpu(), theirs.cpu())
    row("  first byte p50, ms", mine.at(0.5, first=True), theirs.at(0.5, first=True), digits=2)
    for name, (before, after) in memory.items():
        goal = _GOAL_MIB if name == "daemon" else None
        row(f"RSS of {'Envoy' if name == 'envoy' else 'the daemon'} after start, MiB", before, goal=goal)
        row("  after the load", after, goal=goal)


def run_load(args: argparse.Namespace, directory: Path, children: list[Child]) -> DaemonMesh:
    """Everything under load; returns the stopped installation."""

    def child(script: str, *arguments: str) -> Child:
        children.append(Child(script, *arguments))
        return children[-1]

    endpoint, paced = child("gateway_upstream.py", "0").line(), child("gateway_upstream.py", f"{PACED_MS}").line()
    sides: list[Side] = []
    for name, upstream in (("bare", endpoint), ("paced", paced)):
        proxy = child("gateway_passthrough.py", upstream)
        sides.append(Side(name, int(proxy.line().rpartition(":")[2]), {name: proxy.process.pid}))
    load = child("gateway_load.py")
    profile = directory / "profile.json"
    if args.profile:
        os.environ |= {"PYTHONPATH": str(HERE / "gateway_sampler"), "BENCH_PROFILE": str(profile)}
    mesh = DaemonMesh(directory, settings(args, directory, endpoint, paced))
    with mesh:
        assert mesh.process is not None
        daemon = mesh.process.pid
        mine = Side("mesh", mesh.port, {"envoy": envoy_of(daemon), "daemon": daemon})
        started = {part: rss_mib(pid) for part, pid in mine.pids.items()}
        bench = Bench(args, mine, sides[0], mesh.key("bench"), load)
        for side in (mine, sides[0]):
            bench.job(side, 1.0, ANSWER_TOKENS, stream=False)
            bench.job(side, 0.5, SHORT, stream=True)
        time.sleep(_SETTLE_S)
        bench.idle(1.5)
        if args.profile:
            for stream in (False, True):
                bench.profile(profile, stream)
            return mesh
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
            bench.pair("plain", ANSWER_TOKENS, sides[0], stream=False)
            bench.pair("burst short", SHORT, sides[0], stream=True)
            bench.pair("burst long", LONG, sides[0], stream=True)
        bench.pair("paced short", PACED_SHORT, sides[1], stream=True, model=PACED)
        bench.pair("paced long", PACED_LONG, sides[1], stream=True, model=PACED)
        memory = {part: (started[part], rss_mib(pid)) for part, pid in mine.pids.items()}
        report(args, bench.results, memory)
    return mesh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--profile", action="store_true", help="show where the daemon's time goes instead")
    parser.add_argument("--mark", action="store_true", help="every answer carries the Unicode mark")
    args = parser.parse_args()
    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="mb-bench-") as scratch:
        try:
            mesh = run_load(args, Path(scratch), children)
            if args.profile:
                return
            tell_starts("start until the first answer, s; no models", mesh, MODEL)
            if any(cache_dir().glob("triton-*")):
                local = DaemonMesh(Path(scratch) / "local", {})
                with local:
                    first_answer_s(local, LOCAL, time.perf_counter())
                tell_starts("start until the first answer, s; shipped models", local, LOCAL)
        finally:
            for child in children:
                child.stop()


if __name__ == "__main__":
    main()

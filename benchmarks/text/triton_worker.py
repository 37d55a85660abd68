"""Our engine inside the real Triton, asked over its Unix socket: `triton_worker.py MODEL key=value …`."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "libs"), str(ROOT / "libs/protos"), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from workload import Round, Watch, serve

from moltbot_mesh.telemetry import configure_logging
from moltbot_models.generation import GenerationRequest, Sampling
from moltbot_models.triton.client import TritonClient
from moltbot_models.triton.repository import ModelSpec
from moltbot_models.triton.server import TritonServer
from moltbot_models.tuning.process_tree import tree_cpu_s, tree_rss_mib
from moltbot_testkit.triton import triton_runtime


async def round_of(client: TritonClient, wanted: Round) -> dict[str, float]:
    sampling = {"temperature": 0.0} if wanted.mode == "greedy" else {"temperature": 0.8, "top_k": 50, "top_p": 0.9}
    watch = Watch(cpu_of=lambda: tree_cpu_s(os.getpid()))

    async def stream(number: int, prompt: list[int]) -> None:
        await asyncio.sleep(number * wanted.interval_s)
        watch.arrive(number)
        request = GenerationRequest(
            "bench",
            prompt=bytes(prompt).decode(),
            sampling=Sampling(max_tokens=wanted.tokens_out, ignore_eos=True, **sampling),
        )
        seen = 0
        async for deltas in client.generate("bench", request, stream=True, first_s=600, idle_s=600):
            total = deltas[-1].usage.completion_tokens if deltas and deltas[-1].usage else seen + 1
            watch.token(number, max(1, total - seen) if deltas[-1].usage else 1)
            seen = len(watch.tokens[number])

    async with asyncio.TaskGroup() as group:
        for number, prompt in enumerate(wanted.prompts()):
            group.create_task(stream(number, prompt))
    return watch.figures()


def main() -> None:
    configure_logging("error")
    options = dict(pair.split("=", 1) for pair in sys.argv[2:])
    with tempfile.TemporaryDirectory(prefix="triton-") as scratch, asyncio.Runner() as runner:
        spec = ModelSpec("bench", "text-generation", Path(sys.argv[1]), options)
        server = TritonServer(triton_runtime(), [], Path(scratch))
        running = server.running()
        runner.run(running.__aenter__())
        runner.run(server.wait_ready(60))
        began = time.perf_counter()
        runner.run(server.place(spec))
        load_s = time.perf_counter() - began
        client = TritonClient(server.endpoint)
        runner.run(round_of(client, Round(1, 8, 1)))
        try:
            rss = tree_rss_mib(server.supervisor.pid)
            serve(lambda wanted: runner.run(round_of(client, wanted)), {"load_s": load_s, "rss_mib": rss})
        finally:
            runner.run(client.aclose())
            runner.run(running.__aexit__(None, None, None))


main()

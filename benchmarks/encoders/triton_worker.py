"""Encoders in the real Triton under clients that never pause: `triton_worker.py MODEL ONNX SITE`.

Lines of JSON come in: `{"model": …, "clients": …, "seconds": …}`; texts a second, times, CPU and memory go out. The
clients are tasks of this process, so their CPU is taken from the same two cores.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "libs"), str(ROOT / "libs/protos"), str(ROOT / "benchmarks")]

from encoders.texts import paragraphs

from moltbot_mesh.telemetry import configure_logging
from moltbot_models.triton.repository import ModelSpec
from moltbot_models.triton.server import TritonServer
from moltbot_models.tuning.process_tree import tree_cpu_s
from moltbot_testkit.triton import triton_runtime

if TYPE_CHECKING:
    from moltbot_models.triton.client import TritonClient

OPTIONS = {
    "ours": {},
    "unbatched": {"dynamic_batching": "false"},
    "delay_500us": {"queue_delay_us": "500"},
    "ours_f32": {"precision": "f32"},
    "ours_bf16": {"precision": "bf16"},
}
_CONFIG = """name: "ort"
backend: "python"
max_batch_size: 64
input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [
  { name: "EMBEDDING" data_type: TYPE_FP32 dims: [ 384 ] },
  { name: "TOKENS" data_type: TYPE_INT32 dims: [ 1 ] }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


def write_ort(root: Path, model: str, file: str, site: str) -> None:
    (root / "ort" / "1").mkdir(parents=True)
    (root / "ort" / "1" / "model.py").write_text((Path(__file__).parent / "ort_model.py").read_text())
    parameters = {"path": model, "file": file, "site": site}
    tail = [f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(v)} }} }}' for key, v in parameters.items()]
    (root / "ort" / "config.pbtxt").write_text(_CONFIG + "\n".join(tail) + "\n")


def stub_memory(server: int, model: str) -> dict[str, float]:
    """Memory of the process that holds a model, for the Python backend has one for each.

    `rss_mib` is all that is resident, `own_mib` what is in no file: the rest are pages of libraries, which processes
    share and the kernel can drop.
    """
    for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
        if f"/{model}/" in Path(f"/proc/{child}/cmdline").read_text().replace("\0", " "):
            lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()[1:]
            kib = {key: int(rest.split()[0]) for key, rest in (line.split(":") for line in lines)}
            return {"rss_mib": kib["Rss"] / 1024, "own_mib": kib["Anonymous"] / 1024}
    raise SystemExit(f"Triton has no process for {model}")


async def load(client: TritonClient, server: int, model: str, clients: int, seconds: float) -> dict[str, float]:
    texts = paragraphs()
    took: list[float] = []
    cpu, own, began = tree_cpu_s(server), time.process_time(), time.perf_counter()

    async def ask(number: int) -> None:
        place = number * 37
        while time.perf_counter() - began < seconds:
            at = time.perf_counter()
            await client.embed(model, [texts[place % len(texts)]], 60)
            took.append(1e3 * (time.perf_counter() - at))
            place += 1

    await asyncio.gather(*(ask(number) for number in range(clients)))
    wall = time.perf_counter() - began
    return {
        "per_s": len(took) / wall,
        "p50_ms": float(np.percentile(took, 50)),
        "p99_ms": float(np.percentile(took, 99)),
        "cpu_ms": 1e3 * (tree_cpu_s(server) - cpu) / len(took),
        "client_ms": 1e3 * (time.process_time() - own) / len(took),
        **stub_memory(server, model),
    }


async def main() -> None:
    configure_logging("error")
    model, file, site = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="triton-") as scratch:
        server = TritonServer(triton_runtime(), [], Path(scratch))
        async with server.running():
            await server.wait_ready(60)
            for name, options in OPTIONS.items():
                await server.place(ModelSpec(name, "embedding", Path(model), options))
            write_ort(Path(scratch) / "models", model, file, site)
            client = server.client()
            await client.load("ort", 60)
            pid = server.supervisor.pid
            print(json.dumps({model: stub_memory(pid, model) for model in (*OPTIONS, "ort")}), flush=True)
            for line in iter(sys.stdin.readline, ""):
                print(json.dumps(await load(client, pid, **json.loads(line))), flush=True)
            await client.aclose()


asyncio.run(main())

"""A process that serves a model speaks to nobody: libraries that report their use do not get to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import moltbot_models

TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
PROGRAM = f"""
import sys

found = []
watched = ("socket.", "os.fork", "os.posix_spawn", "subprocess.Popen")  # reports may be sent by a child
sys.addaudithook(lambda event, arguments: event.startswith(watched) and found.append((event, arguments)))

import importlib, pkgutil, threading
from pathlib import Path
import moltbot_models

for module in pkgutil.walk_packages(moltbot_models.__path__, "moltbot_models."):
    if "_backend" not in module.name:  # these run in Triton alone
        importlib.import_module(module.name)

from moltbot_models.engine import TextEngine
from moltbot_models.generation import GenerationRequest, Sampling

engine = TextEngine.load(Path({str(TINY)!r}))
ended = threading.Event()
request = GenerationRequest("tiny", prompt="x", sampling=Sampling(max_tokens=3, ignore_eos=True))
engine.submit(request, lambda delta: delta.finish_reason and ended.set(), on_error=found.append)
assert ended.wait(60)
engine.close()
import openvino

print(openvino.get_version(), sorted(name for name in sys.modules if "telemetry" in name and "openvino" in name))
print(found)
"""


def test_a_process_that_serves_opens_no_connection_starts_no_child_and_writes_nothing_home(tmp_path: Path) -> None:
    library = str(Path(moltbot_models.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={key: value for key, value in os.environ.items() if key != "CI"}
        | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join([library, f"{library}/protos"])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    loaded, found = done.stdout.splitlines()
    assert loaded.endswith("['openvino_telemetry']"), loaded  # which stands for nothing: it cannot be imported
    assert found == "[]"
    assert list(tmp_path.rglob("*")) == []

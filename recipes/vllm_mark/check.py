"""Runs vLLM's logits processor for the mark with torch, beside the engine's own hook. vLLM itself is not started.

    PYTHONPATH=libs python recipes/vllm_mark/check.py --vllm vllm-0.33.0-….whl

The interface is read out of vLLM's wheel (`pip download --no-deps vllm`): the processor subclasses the real base class,
and the updates of the batch are of the real type.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
import types
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from moltbot_models.engine.draw import candidates_of
from moltbot_models.engine.gumbel import GumbelMark
from moltbot_models.engine.sampler import DrawSettings, SamplingContext

LIBS = Path(__file__).resolve().parents[2] / "libs" / "moltbot_models"
INTERFACE = "vllm/v1/sample/logits_processor/interface.py"
KEYS = {"one": bytes(range(32)), "two": bytes(32)}
VOCABULARIES = (300, 2048, 32_000, 152_064)


def module(name: str, source: str, **given: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(given)
    sys.modules[name] = made
    exec(compile(source, name, "exec"), made.__dict__)  # noqa: S102 - vLLM's interface, and our own template
    return made


def loaded(wheel: Path, keys: Path) -> Any:
    """The processor's module, on vLLM's own interface."""
    os.environ["MOLTBOT_MARK_KEYS"] = str(keys)
    for name in ("vllm", "vllm.v1", "vllm.v1.sample"):
        module(name, "", SamplingParams=SimpleNamespace, __path__=[])
    with zipfile.ZipFile(wheel) as archive:
        module("vllm.v1.sample.logits_processor", archive.read(INTERFACE).decode())
    module("moltbot_mark", "", __path__=[])
    module("moltbot_mark.numbers", (LIBS / "engine" / "plain_mark.py").read_text("utf-8"))
    return module("moltbot_mark", (LIBS / "targets" / "vllm_mark.py.template").read_text("utf-8"), __path__=[])


def settings(draw: random.Random) -> dict[str, Any]:
    return {
        "temperature": draw.choice([0.0, 0.3, 0.8, 1.0, 1.7]),
        "top_k": draw.choice([0, 0, 1, 20, 50, 1500]),
        "top_p": draw.choice([1.0, 1.0, 0.9, 0.5]),
        "min_p": draw.choice([0.0, 0.0, 0.05]),
    }


def compared(mark: Any, rounds: int, draw: random.Random) -> tuple[int, int, int]:
    """Rows marked by both, rows that differ, rows left alone."""
    numpy_draw = np.random.default_rng(5)
    same = different = alone = 0
    for number in range(rounds):
        size, rows = VOCABULARIES[number % len(VOCABULARIES)], draw.randint(1, 24)
        processor = mark.MarkProcessor(None, torch.device("cpu"), False)
        raw = (numpy_draw.standard_normal((rows, size)) * 3).astype(np.float32)
        requests = []
        for row in range(rows):
            asked = settings(draw)
            output = [draw.randrange(size) for _ in range(draw.choice([0, 3, 4, 9, 200]))]
            if draw.random() < 0.15:
                output = output[:4] * 3
            name = draw.choice(["one", "two", None])
            extra = None if name is None else {"moltbot_mark": name}
            requests.append((row, SimpleNamespace(extra_args=extra, **asked), [1, 2], output))
        update = sys.modules["vllm.v1.sample.logits_processor"].BatchUpdate(rows, [], requests, [])
        processor.update_state(update)
        temperatures = np.array([params.temperature or 1.0 for _, params, _, _ in requests], np.float32)
        scaled = raw / temperatures[:, None]
        before = torch.from_numpy(scaled.copy())
        after = processor.apply(before.clone())
        for row, params, _, output in requests:
            expected = None
            if params.extra_args and params.temperature:
                own = DrawSettings(params.temperature, params.top_k, params.top_p, params.min_p, 0.0, 0.0, 1.0, None)
                candidates = candidates_of(raw[row][None], own)
                context = SamplingContext(None, output, 0, own)
                (expected,) = GumbelMark(KEYS[params.extra_args["moltbot_mark"]]).choose(candidates, [context])
            if expected is None:
                alone += 1
                assert torch.equal(after[row], before[row]), "a row without a mark was touched"
                continue
            left = torch.isfinite(after[row]).nonzero().flatten().tolist()
            assert len(left) == 1, "a marked row leaves one token"
            same, different = (same + 1, different) if left == [expected] else (same, different + 1)
    return same, different, alone


def followed(mark: Any, steps: int, draw: random.Random) -> int:
    """The rows after random updates of the batch are those of a plain list; returns how many updates there were."""
    interface = sys.modules["vllm.v1.sample.logits_processor"]
    moves = interface.MoveDirectionality
    processor = mark.MarkProcessor(None, torch.device("cpu"), False)
    batch: dict[int, tuple[str | None, list[int]]] = {}
    for step in range(steps):
        removed = [index for index in batch if draw.random() < 0.2]
        for index in removed:
            del batch[index]
        added = []
        for index in range(len(batch) + 3):
            if draw.random() < 0.3:
                name, output = draw.choice(["one", "two", None]), [step, index, 1, 2]
                extra = None if name is None else {"moltbot_mark": name}
                added.append((index, SimpleNamespace(extra_args=extra, **settings(draw)), None, output))
                batch[index] = (name, output)
        moved = []
        for _ in range(draw.randint(0, 3)):
            if len(batch) > 1:
                source, target = draw.sample(sorted(batch), 2)
                swap = draw.random() < 0.5
                moved.append((source, target, moves.SWAP if swap else moves.UNIDIRECTIONAL))
                one, two = batch.pop(source), batch.pop(target)
                batch[target] = one
                if swap:
                    batch[source] = two
        processor.update_state(interface.BatchUpdate(len(batch), removed, added, moved))
        processor.update_state(None)
        found = {index: (key, output) for index, (key, _, output) in processor._marked.items()}  # noqa: SLF001 - its state is what is checked
        wanted = {index: (KEYS[name], output) for index, (name, output) in batch.items() if name is not None}
        assert found == wanted, step
    return steps


def timed(mark: Any, rows: int, size: int) -> float:
    """Microseconds a row, on this machine's CPU."""
    processor = mark.MarkProcessor(None, torch.device("cpu"), False)
    params = SimpleNamespace(extra_args={"moltbot_mark": "one"}, temperature=1.0, top_k=50, top_p=0.95, min_p=0.0)
    requests = [(row, params, None, [row, *range(300)]) for row in range(rows)]
    processor.update_state(sys.modules["vllm.v1.sample.logits_processor"].BatchUpdate(rows, [], requests, []))
    logits = torch.randn(rows, size)
    began = time.process_time()
    for _ in range(20):
        processor.apply(logits.clone())
    return (time.process_time() - began) / 20 / rows * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, required=True, metavar="WHEEL")
    parser.add_argument("--rounds", type=int, default=400)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        keys = Path(scratch) / "keys.json"
        keys.write_text(json.dumps({name: key.hex() for name, key in KEYS.items()}))
        keys.chmod(0o600)
        mark, draw = loaded(arguments.vllm, keys), random.Random(11)
        same, different, alone = compared(mark, arguments.rounds, draw)
        print(f"torch {torch.__version__}, {arguments.vllm.name}, on the CPU")
        print(f"{same} marked rows say what the engine says, {different} do not; {alone} rows without a mark untouched")
        print(f"{followed(mark, 2000, draw)} updates of the batch followed")
        for extra in ({"moltbot_mark": "none such"}, {"moltbot_mark": 3}):
            try:
                mark.MarkProcessor.validate_params(SimpleNamespace(extra_args=extra))
            except ValueError as error:
                print(f"refused: {error}")
            else:
                raise AssertionError(extra)
        print(
            f"{timed(mark, 32, 32_000):.0f} and {timed(mark, 32, 152_064):.0f} µs of CPU a row (32,000; 152,064 tokens)"
        )
        if different:
            raise SystemExit(1)


if __name__ == "__main__":
    main()

"""How often a sampled text depends on what else runs: `identity_worker.py MODEL REQUESTS key=value …`.

Each request has a seed of its own; it is answered alone, then all at once. One JSON line: how many texts differ, and
after how many tokens the first of them does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "libs"), str(ROOT / "libs/protos")]

from moltbot_models.engine import TextEngine
from moltbot_models.engine.options import config_of
from moltbot_models.gate.texts import shipped_texts
from moltbot_models.generation import GenerationRequest, Sampling

TOKENS = 64


def failed(error: Exception) -> None:
    print(error, file=sys.stderr)
    os._exit(1)


def answers(engine: TextEngine, prompts: list[str], at_once: int) -> list[list[str]]:
    """The tokens of each answer."""
    found: list[list[str]] = [[] for _ in prompts]
    room, ended = threading.Semaphore(at_once), threading.Semaphore(0)
    for number, prompt in enumerate(prompts):

        def on_delta(delta, mine=found[number]) -> None:
            mine.extend(entry.token for entry in delta.logprobs)
            if delta.finish_reason:
                room.release()
                ended.release()

        sampling = Sampling(max_tokens=TOKENS, temperature=0.8, top_p=0.95, seed=number, ignore_eos=True, logprobs=True)
        room.acquire()
        request = GenerationRequest("m", prompt=prompt, sampling=sampling)
        engine.submit(request, on_delta, on_error=failed)
    for _ in prompts:
        ended.acquire()
    return found


def main() -> None:
    options = dict(pair.split("=", 1) for pair in sys.argv[3:])
    engine = TextEngine.load(Path(sys.argv[1]), config_of(options))
    texts = shipped_texts()
    prompts = [*texts.calibration, *texts.held_out][: int(sys.argv[2])]
    alone, together = answers(engine, prompts, 1), answers(engine, prompts, len(prompts))
    engine.close()
    parted = [
        next(place for place, (one, two) in enumerate(zip(a, b, strict=True)) if one != two)
        for a, b in zip(alone, together, strict=True)
        if a != b
    ]
    print(json.dumps({"requests": len(prompts), "differ": len(parted), "after": sorted(parted)}))


main()

"""Our engine in a process of its own: `engine_worker.py MODEL key=value …`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "libs"), str(Path(__file__).parent)]

from workload import Round, Watch, serve, work

from moltbot_models.engine import TextEngine
from moltbot_models.engine.aio import stream as answer_of
from moltbot_models.engine.gumbel import GumbelMark
from moltbot_models.engine.options import config_of
from moltbot_models.generation import GenerationRequest, ResponseFormat, Sampling
from moltbot_testkit.engine import held

MODES = {
    "greedy": ({"temperature": 0.0}, None),
    "sampled": ({"temperature": 0.8, "top_k": 50, "top_p": 0.9, "seed": 1}, None),
    "mark": ({"temperature": 0.8, "top_k": 50}, GumbelMark(bytes(32))),
    "logprobs": ({"temperature": 0.0, "logprobs": True, "top_logprobs": 5}, None),
    "constrained": ({"temperature": 0.0}, None),
}
# As long as any answer here, so that none ends by itself.
LETTERS = ResponseFormat("regex", "[ -~]{4096}")


def called_back(engine: TextEngine, wanted: Round) -> dict[str, float]:
    """Pieces are counted in the engine's own thread."""
    sampling, hook = MODES[wanted.mode]
    ended = threading.Semaphore(0)
    errors: list[Exception] = []

    def submit(stream: int, prompt: list[int]) -> None:
        def on_delta(delta) -> None:
            watch.token(stream)
            if delta.finish_reason:
                ended.release()

        def on_error(error) -> None:
            errors.append(error)
            ended.release()

        watch.arrive(stream)
        form = LETTERS if wanted.mode == "constrained" else None
        engine.submit(request(prompt, wanted, sampling, form), on_delta, on_error=on_error, hook=hook)

    # Those that come all at once are there when the first step begins, as the baseline's are.
    with contextlib.nullcontext() if wanted.interval_s else held(engine):
        watch = Watch()
        for stream, prompt in enumerate(wanted.prompts()):
            submit(stream, prompt)
            if wanted.interval_s:
                time.sleep(wanted.interval_s)
    for _ in range(wanted.streams):
        ended.acquire()
    if errors:
        raise errors[0]
    return watch.figures()


def served(engine: TextEngine, wanted: Round) -> dict[str, float]:
    """Pieces go to an event loop, as in a server; those that come while it works are taken as one."""
    watch = Watch()
    sampling, _ = MODES[wanted.mode]

    async def one(stream: int, prompt: list[int]) -> None:
        watch.arrive(stream)
        async for _ in answer_of(engine, request(prompt, wanted, sampling)):
            watch.token(stream)
            work(wanted.work_us)

    async def everyone() -> None:
        await asyncio.gather(*(one(stream, prompt) for stream, prompt in enumerate(wanted.prompts())))

    asyncio.run(everyone())
    return watch.figures(wanted.streams * wanted.tokens_out)


def request(prompt: list[int], wanted: Round, sampling: dict, form: ResponseFormat | None = None) -> GenerationRequest:
    return GenerationRequest(
        "bench",
        prompt=bytes(prompt).decode(),
        sampling=Sampling(max_tokens=wanted.tokens_out, ignore_eos=True, **sampling),
        response_format=form,
    )


def main() -> None:
    path = Path(sys.argv[1])
    engine = TextEngine.load(path, config_of(dict(pair.split("=", 1) for pair in sys.argv[2:])))

    def run(wanted: Round) -> dict[str, float]:
        return (served if wanted.work_us else called_back)(engine, wanted)

    run(Round(1, 8, 1))
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
    serve(run, {"load_s": engine.stats().load_seconds, "rss_mib": rss, "modes": list(MODES)})


main()

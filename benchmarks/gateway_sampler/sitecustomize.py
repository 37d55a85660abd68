"""Samples where a Python process spends its CPU time; on PYTHONPATH of the daemon under `gateway.py --profile`.

A timer on the process's CPU clock asks each thread for its stack; a sample weighs what that thread's own clock moved
since the one before, so threads that only wait weigh nothing. SIGUSR2 begins, a second one ends and writes the file
that BENCH_PROFILE names. CPU of threads without Python frames (gRPC's) is not in it; /proc has that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_INTERVAL_S = 0.001
_DEPTH = 60


class Sampler:
    """Collects stacks, weighted by CPU."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stacks: Counter[tuple[str, ...]] = Counter()
        self._clocks: dict[int, float] = {}
        self._runs = False

    def toggle(self, *_: object) -> None:
        self._runs = not self._runs
        interval_s = _INTERVAL_S if self._runs else 0.0
        signal.setitimer(signal.ITIMER_PROF, interval_s, interval_s)
        if not self._runs:
            names = {str(thread.native_id): thread.name for thread in threading.enumerate()}
            stacks = [[list(stack), seconds] for stack, seconds in self._stacks.items()]
            Path(f"{self._path}.new").write_text(json.dumps({"threads": names, "stacks": stacks}))
            Path(f"{self._path}.new").replace(self._path)

    def sample(self, _: int, interrupted: FrameType | None) -> None:
        own = threading.get_ident()
        for thread, current in sys._current_frames().items():
            try:
                now_s = time.clock_gettime(time.pthread_getcpuclockid(thread))
            except OSError:
                continue
            spent_s = now_s - self._clocks.get(thread, now_s)
            self._clocks[thread] = now_s
            if spent_s <= 0:
                continue
            frame = interrupted if thread == own else current
            stack: list[str] = []
            while frame is not None and len(stack) < _DEPTH:
                code = frame.f_code
                stack.append(f"{code.co_filename}:{code.co_qualname}")
                frame = frame.f_back
            self._stacks[tuple(stack)] += spent_s


if "BENCH_PROFILE" in os.environ and "daemon" in sys.orig_argv:
    _sampler = Sampler(os.environ["BENCH_PROFILE"])
    signal.signal(signal.SIGPROF, _sampler.sample)
    signal.signal(signal.SIGUSR2, _sampler.toggle)
    signal.siginterrupt(signal.SIGPROF, False)

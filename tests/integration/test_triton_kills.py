"""Triton killed under 32 streams, again and again: right text or a clear error, and everything as at the start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import moltbot_models
from moltbot_mesh import supervisor
from moltbot_mesh.errors import MoltbotError
from moltbot_mesh.supervisor import State
from moltbot_models.generation import GenerationRequest, Message, Sampling
from moltbot_models.manifest import Manifest
from moltbot_models.providers.triton import TritonUpstream
from moltbot_models.triton.repository import ModelSpec
from moltbot_testkit.triton import running_triton, triton_runtime

if TYPE_CHECKING:
    from collections.abc import Callable

TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
STREAMS, KINDS, TOKENS = 32, 8, 128
KILLS = int(os.environ.get("MOLTBOT_TRITON_KILLS", "2"))
REASONS = {"UPSTREAM_UNAVAILABLE", "UPSTREAM_ERROR"}
pytestmark = pytest.mark.timeout(120 + 30 * KILLS)


def ask(kind: int) -> GenerationRequest:
    messages = (Message("user", f"Tell me a story about number {kind}."),)
    return GenerationRequest("tiny", messages=messages, sampling=Sampling(max_tokens=TOKENS, ignore_eos=True))


class KillAfter:
    """Kills a process once it has said so many characters: however fast it is, it dies in the midst of them."""

    def __init__(self, pid: int, characters: float) -> None:
        self._pid, self._left = pid, characters
        self.done = False

    def __call__(self, text: str) -> None:
        self._left -= len(text)
        if self._left <= 0 and not self.done:
            self.done = True
            os.kill(self._pid, signal.SIGKILL)


async def streamed(
    upstream: TritonUpstream, kind: int, heard: Callable[[str], None] = lambda _: None
) -> tuple[str, MoltbotError | None]:
    """The text that came, and the error that ended it; `heard` is told of each piece."""
    text = ""
    try:
        async with contextlib.aclosing(upstream.generate(ask(kind))) as pieces:
            async for deltas in pieces:
                piece = "".join(delta.text for delta in deltas)
                text += piece
                heard(piece)
    except MoltbotError as error:
        return text, error
    return text, None


def memory_kib(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return own + sum(memory_kib(int(child)) for child in children)


async def test_every_stream_ends_with_the_right_text_or_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_STEADY_S", 0.0)  # else each further start waits longer
    draw = random.Random(7)
    options = {"deterministic": "true", "kv": "f32", "weights": "f32", "kv_cache_mib": "64"}
    spec = ModelSpec("tiny", "text-generation", TINY, options)
    whole = broken = 0
    async with running_triton(triton_runtime(), [spec]) as server:
        manifest = Manifest("tiny", "text-generation", "triton", server.endpoint)
        async with contextlib.aclosing(TritonUpstream(manifest)) as upstream:
            expected = [(await streamed(upstream, kind))[0] for kind in range(KINDS)]
            whole_text = sum(len(expected[number % KINDS]) for number in range(STREAMS))
            start = await upstream.statistics()
            memory = memory_kib(server.supervisor.pid or 0)
            for _ in range(KILLS):
                pid = server.supervisor.pid
                assert pid is not None
                kill = KillAfter(pid, draw.uniform(0.0, 0.8) * whole_text)
                async with asyncio.timeout(60):
                    ended = await asyncio.gather(
                        *(streamed(upstream, number % KINDS, kill) for number in range(STREAMS))
                    )
                assert kill.done
                for number, (text, error) in enumerate(ended):
                    right = expected[number % KINDS]
                    if error is None:
                        whole += 1
                        assert text == right
                    else:
                        broken += 1
                        assert right.startswith(text)
                        assert error.reason in REASONS
                        assert "tiny" in error.message
                async with asyncio.timeout(60):
                    while server.supervisor.pid in {pid, None} or server.supervisor.state is not State.READY:
                        await asyncio.sleep(0.02)
                assert [await streamed(upstream, kind) for kind in range(KINDS)] == [(text, None) for text in expected]
                now = await upstream.statistics()
                assert now["running"] == now["waiting"] == 0
                assert now["blocks_free"] + now["blocks_cached"] == now["blocks_total"] == start["blocks_total"]
            assert memory_kib(server.supervisor.pid or 0) < 1.2 * memory
        assert server.supervisor.restarts == KILLS
    assert broken, "no kill met a stream"
    print(f"{KILLS} kills: {whole} streams whole, {broken} ended with an error")

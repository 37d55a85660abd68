"""The engine for asyncio: a request becomes an asynchronous stream."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from moltbot_models.generation import Delta, ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from moltbot_models.engine.config import EngineError
    from moltbot_models.engine.engine import GenerationHandle, TextEngine
    from moltbot_models.engine.sampler import SamplerHook
    from moltbot_models.generation import GenerationRequest


async def stream(
    engine: TextEngine, request: GenerationRequest, *, hook: SamplerHook | None = None
) -> AsyncGenerator[Delta, None]:
    """Yield the answer's deltas; what arrives while the consumer is busy is yielded as one.

    The request is cancelled when the consumer stops early (`aclose`, cancellation), so the memory held here is never
    more than the text of one answer.

    Raises:
        EngineError: As `TextEngine.submit`, or when the request fails on its way.
    """
    loop = asyncio.get_running_loop()
    arrived: list[Delta | EngineError] = []
    wake = asyncio.Event()

    def put(item: Delta | EngineError) -> None:
        # Called in the engine's thread. Appending is atomic; only the first item since the last wake rings the loop.
        arrived.append(item)
        if len(arrived) == 1 and not loop.is_closed():
            loop.call_soon_threadsafe(wake.set)

    handle = await _submitted(engine, request, put, hook)
    try:
        while True:
            await wake.wait()
            wake.clear()
            items = arrived[:]
            del arrived[: len(items)]
            # An item that came between those lines found a list that was not empty, and did not ring.
            if arrived:
                wake.set()
            deltas = [item for item in items if isinstance(item, Delta)]
            if deltas:
                yield merged(deltas)
            for item in items:
                if not isinstance(item, Delta):
                    raise item
                if item.finish_reason is not None:
                    return
    finally:
        handle.cancel()


async def _submitted(
    engine: TextEngine, request: GenerationRequest, put: Callable[[Delta | EngineError], None], hook: SamplerHook | None
) -> GenerationHandle:
    # In a thread: tokenising a long prompt takes tens of milliseconds, encoding an image as much or seconds.
    left = threading.Event()

    def submit() -> GenerationHandle | None:
        # Whoever left while the request waited for a thread costs no work.
        return None if left.is_set() else engine.submit(request, put, on_error=put, hook=hook)

    task = asyncio.get_running_loop().run_in_executor(engine.executor_for(request), submit)
    try:
        handle = await asyncio.shield(task)
    except asyncio.CancelledError:
        left.set()
        # The thread may go on; the request it queues has no consumer any more.
        task.add_done_callback(_cancel)
        raise
    assert handle is not None
    return handle


def _cancel(done: asyncio.Future[GenerationHandle | None]) -> None:
    if not done.cancelled() and done.exception() is None and (handle := done.result()) is not None:
        handle.cancel()


def merged(deltas: Sequence[Delta]) -> Delta:
    """Return one delta that says the same as these in turn."""
    if len(deltas) == 1:
        return deltas[0]
    calls: dict[int, ToolCallDelta] = {}
    for piece in (piece for delta in deltas for piece in delta.tool_calls):
        before = calls.get(piece.index, ToolCallDelta(piece.index))
        calls[piece.index] = ToolCallDelta(
            piece.index, before.id or piece.id, before.name or piece.name, before.arguments + piece.arguments
        )
    return Delta(
        text="".join(delta.text for delta in deltas),
        tool_calls=tuple(calls.values()),
        logprobs=tuple(logprob for delta in deltas for logprob in delta.logprobs),
        finish_reason=deltas[-1].finish_reason,
        usage=deltas[-1].usage,
        reasoning="".join(delta.reasoning for delta in deltas),
        timing=deltas[-1].timing,
    )

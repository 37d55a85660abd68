"""Waiting before another try, and for a connection."""

from __future__ import annotations

import asyncio
import random

import grpc


def backoff_s(attempt: int, *, base_s: float = 0.05, at_most_s: float = 5.0) -> float:
    """How long to wait before another try, in seconds: up to twice as long each time, at random.

    Args:
        attempt: How many tries failed before the one that failed last.
        base_s: The most after the first failure.
        at_most_s: The most after many.

    Source: "full jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ (with a floor of a
    tenth, so that many tries cannot come at once).
    """
    most_s = min(at_most_s, base_s * 2.0 ** min(attempt, 30))
    return most_s * random.uniform(0.1, 1.0)  # noqa: S311 - no secret


async def is_ready(channel: grpc.aio.Channel, timeout_s: float) -> bool:
    """Whether a channel is connected, or gets connected by the attempt that runs or that this starts.

    Args:
        channel: Not closed.
        timeout_s: How long the attempt may take, in seconds; a refused connection takes none of it.
    """
    state = channel.get_state(try_to_connect=True)
    try:
        async with asyncio.timeout(timeout_s):
            while state in (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING):
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        return False
    return state is grpc.ChannelConnectivity.READY

"""What a channel over many says of their states, which change at any time."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from moltbot_mesh.balancer import BalancedChannel
from moltbot_mesh.registry import InProcessRegistry, Instance

CONNECTING, READY = grpc.ChannelConnectivity.CONNECTING, grpc.ChannelConnectivity.READY


class Flipping:
    """A channel that is connected from its n-th look on."""

    def __init__(self, at):
        self.at = at
        self.looks = 0

    def get_state(self, try_to_connect=False):
        self.looks += 1
        return READY if self.looks > self.at else CONNECTING

    async def wait_for_state_change(self, last_observed_state):
        if last_observed_state is READY:
            await asyncio.Event().wait()

    async def close(self, grace=None):
        pass


@pytest.mark.parametrize("at", range(1, 12))
async def test_channels_that_connect_all_at_once_are_seen_whenever_it_is(at):
    registry = InProcessRegistry()
    async with (
        registry.register(Instance("echo", "a", "127.0.0.1:1")),
        registry.register(Instance("echo", "b", "127.0.0.1:2")),
        BalancedChannel(registry, "echo", open_channel=lambda _: Flipping(at)) as channel,
    ):
        async with asyncio.timeout(10):
            await channel.channel_ready()
        assert channel.get_state() is READY

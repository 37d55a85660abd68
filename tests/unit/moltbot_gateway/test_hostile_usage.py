"""Tokens that an upstream claims to have counted."""

from __future__ import annotations

import pytest
from moltbot.audit.v1 import audit_pb2

from moltbot_gateway.failover import Failover
from moltbot_gateway.settings import GatewaySettings
from moltbot_models.generation import Delta, EmbeddingRequest, Embeddings, GenerationRequest, Message, Usage

REQUEST = GenerationRequest("", (Message("user", "hello"),))


def recorded(usage) -> audit_pb2.AuditEvent:
    return audit_pb2.AuditEvent(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)


@pytest.mark.parametrize("usage", [Usage(-5, 10**18, -1), Usage(2**63, -(2**63))])
async def test_what_cannot_be_is_brought_within_what_can_be_recorded(pool, exchange, usage):
    pool.add("a", [Delta("hello"), Delta(finish_reason="stop", usage=usage)], [Embeddings(((1.0,),), usage)])
    failover = Failover(GatewaySettings(), pool)
    async for _deltas in failover.generate(exchange, ["a"], REQUEST, stream=True):
        pass
    assert min(recorded(exchange.usage).prompt_tokens, recorded(exchange.usage).completion_tokens) >= 0
    await failover.embed(exchange, ["a"], EmbeddingRequest("", ("x",)))
    assert min(recorded(exchange.usage).prompt_tokens, recorded(exchange.usage).completion_tokens) >= 0
    assert exchange.usage.cached_tokens >= 0


async def test_the_steps_of_one_request_add_up_within_it(pool, exchange):
    most = Usage(2**40, 2**40)
    pool.add("a", [Delta("hello"), Delta(finish_reason="stop", usage=most)])
    failover = Failover(GatewaySettings(), pool)
    for _step in range(8):
        async for _deltas in failover.generate(exchange, ["a"], REQUEST, stream=True):
            pass
    recorded(exchange.usage)

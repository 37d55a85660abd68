from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from moltbot_gateway.ask import Caller
from moltbot_gateway.exchange import Exchange
from moltbot_gateway.upstream_pool import OpenUpstream
from moltbot_mesh.call import Principal, TraceContext
from moltbot_mesh.errors import MoltbotError, Unavailable
from moltbot_models.generation import Embeddings
from moltbot_models.manifest import Manifest

if TYPE_CHECKING:
    from moltbot_models.generation import EmbeddingRequest, GenerationRequest


@dataclass
class ScriptedUpstream:
    """Answers each request with the next script: pieces, seconds to wait, or an error to raise."""

    scripts: list[list[object]]
    requests: list[GenerationRequest | EmbeddingRequest] = field(default_factory=list)
    closed: int = 0

    async def generate(self, request, *, stream=True):
        self.requests.append(request)
        script = self.scripts[min(len(self.requests), len(self.scripts)) - 1]
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step if isinstance(step, tuple) else (step,)
        finally:
            self.closed += 1

    async def embed(self, request):
        self.requests.append(request)
        (step,) = self.scripts[min(len(self.requests), len(self.scripts)) - 1]
        if isinstance(step, float):
            await asyncio.sleep(step)
        if isinstance(step, MoltbotError):
            raise step
        assert isinstance(step, Embeddings)
        return step


class ScriptedPool:
    """What `UpstreamPool` offers to a request, and what it was told."""

    def __init__(self) -> None:
        self.upstreams: dict[str, OpenUpstream] = {}
        self.told: list[tuple[str, str]] = []

    def add(self, model: str, *scripts: list[object], max_tokens: int = 0) -> ScriptedUpstream:
        upstream = ScriptedUpstream(list(scripts))
        manifest = Manifest(model, "text-generation", "openai", max_tokens=max_tokens)
        self.upstreams[model] = OpenUpstream(manifest, upstream, f"{model}-upstream")
        return upstream

    def get(self, model: str) -> OpenUpstream:
        if model not in self.upstreams:
            raise Unavailable(f"{model}: it has just left the routing table", reason="UPSTREAM_UNAVAILABLE")
        return self.upstreams[model]

    def started(self, model: str) -> None:
        self.told.append((model, "started"))

    def ended(self, model: str, *, ok: bool | None, first_token_us: int, duration_us: int) -> None:
        self.told.append((model, {True: "ok", False: "failed", None: "neutral"}[ok]))


@pytest.fixture
def pool() -> ScriptedPool:
    return ScriptedPool()


@pytest.fixture
def exchange() -> Exchange:
    principal = Principal("key", "k1", "acme")
    return Exchange(Caller(principal, TraceContext.new(sampled=False), "r-1", "POST /v1/chat/completions"))

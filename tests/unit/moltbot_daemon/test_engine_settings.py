"""What the configuration says of engines holds for those in the gateway's own process too."""

from __future__ import annotations

import contextlib

from moltbot_daemon.daemon import MODULES
from moltbot_daemon.settings import Settings
from moltbot_gateway import module
from moltbot_mesh.keyvalue import MemoryKeyValueStore
from moltbot_mesh.runner import Node, running
from moltbot_models.engine.config import EngineConfig
from moltbot_models.providers.engines import EngineHost


async def test_threads_and_cache_reach_the_embedded_engine(tmp_path, monkeypatch):
    models = tmp_path / "models.yaml"
    models.write_text("models:\n  - {id: m, type: text-generation, provider: openai, endpoint: 'unix:/none:/v1'}\n")
    settings = Settings.model_validate(
        {
            "inference": {"engine": "embedded", "threads": 3, "kv_cache_mib": 17},
            "router": {"models": [str(models)]},
        }
    )
    given: list[EngineConfig | None] = []

    def host(config: EngineConfig | None = None) -> EngineHost:
        given.append(config)
        return EngineHost(config)

    monkeypatch.setattr(module, "EngineHost", host)
    node = Node(tmp_path, bytes(32), MemoryKeyValueStore(), (f"unix:{tmp_path}/s",), grace_s=0.1)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(running(MODULES, ["gateway"], settings, node))
    assert given == [EngineConfig(threads=3, kv_cache_bytes=17 << 20)]

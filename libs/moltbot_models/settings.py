"""The part of the configuration that every engine of the mesh obeys, in Triton and in a service's own process."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from moltbot_mesh.settings import Section
from moltbot_models.engine.config import EngineConfig


class EngineSettings(Section):
    """What engines may use of their machine."""

    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """CPU threads of the text engine; 0 is all."""
    kv_cache_mib: Annotated[int, Field(ge=0)] = 128
    """Memory of the text engine's KV cache, in MiB; 0 takes a quarter of what the machine has left."""

    def engine_config(self) -> EngineConfig:
        """The same for an engine in this process."""
        return EngineConfig(threads=self.threads, kv_cache_bytes=self.kv_cache_mib << 20)

"""An engine's configuration as texts: in manifests and in Triton's model configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moltbot_models.engine.config import EngineConfig

if TYPE_CHECKING:
    from collections.abc import Mapping


def config_of(options: Mapping[str, str], base: EngineConfig | None = None) -> EngineConfig:
    """`EngineConfig` from options, whose values the compiler of the repository has checked.

    Args:
        options: Some of the fields of `EngineConfig`; `kv_cache_mib` for the cache. `context_length` 0 is the model's.
        base: For what the options do not name.
    """
    base = base or EngineConfig()
    context = int(options.get("context_length", base.context_length or 0))
    mib, chunk = options.get("kv_cache_mib"), options.get("chunk_tokens")
    return EngineConfig(
        weights=options.get("weights", base.weights),  # pyright: ignore[reportArgumentType] - checked, see above
        compute=options.get("compute", base.compute),  # pyright: ignore[reportArgumentType]
        kv=options.get("kv", base.kv),  # pyright: ignore[reportArgumentType]
        threads=int(options.get("threads", base.threads)),
        step_tokens=int(options.get("step_tokens", base.step_tokens)),
        chunk_tokens=base.chunk_tokens if chunk is None else int(chunk),
        kv_cache_bytes=base.kv_cache_bytes if mib is None else int(mib) << 20,
        max_queue=int(options.get("max_queue", base.max_queue)),
        context_length=context or None,
        batch_images=int(options.get("batch_images", base.batch_images)),
        encodes_images=options.get("encodes_images", str(base.encodes_images).lower()) == "true",
        deterministic=options.get("deterministic", str(base.deterministic).lower()) == "true",
    )

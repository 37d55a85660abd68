"""What this process may still use of the machine's memory, and whether a model fits into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moltbot_models.engine.config import EngineError

if TYPE_CHECKING:
    from moltbot_models.engine.config import EngineConfig, WeightPrecision

_BYTES: dict[WeightPrecision, float] = {"u4": 0.5 + 5 / 64, "u8": 1, "i8": 1, "bf16": 2, "f32": 4}
"""Of a number; of `u4` with its share of scale and zero point."""
_SHARE = 4
"""The cache takes one part in so many of what is left beside the weights."""
_MOST_BLOCKS = 8192
"""A quarter of a million tokens: more is never in use at once on a CPU."""
_LEAST_BLOCKS = 2


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that can be had without swapping, within the limit of the control group; None where nobody says.

    Source: proc(5), MemAvailable; Linux cgroup v2, memory.max and memory.current; v1, memory.limit_in_bytes.
    """
    found: list[int] = []
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    for limit, used in (
        (cgroups / "memory.max", cgroups / "memory.current"),
        (cgroups / "memory" / "memory.limit_in_bytes", cgroups / "memory" / "memory.usage_in_bytes"),
    ):
        try:
            found.append(max(0, int(limit.read_text()) - int(used.read_text())))
        except (OSError, ValueError):  # "max": no limit
            continue
    return min(found, default=None)


def check_fits(parameters: int, config: EngineConfig, available: int | None, words: int = 0) -> None:
    """Refuse a model that cannot fit, before anything is allocated.

    Args:
        parameters: Numbers in the checkpoint.
        config: Their precision, and the cache.
        available: From `available_bytes`.
        words: Numbers of them that belong to embedding and head, which `u4` keeps in 8 bits.

    Raises:
        EngineError: `MODEL_TOO_LARGE` with the numbers and how to mend it.
    """
    if available is None:
        return
    width = _BYTES[config.weights]
    weights = int((parameters - words) * width + words * max(width, 1))
    if weights + config.kv_cache_bytes <= available:
        return
    smaller = f' or weights="{"u8" if width > 1 else "u4"}"' if width >= 1 else ""
    raise EngineError(
        "MODEL_TOO_LARGE",
        f"{parameters / 1e6:.0f} M parameters in {config.weights} take {weights >> 20} MiB, the cache "
        f"{config.kv_cache_bytes >> 20} MiB, and {available >> 20} MiB are available: give a smaller kv_cache_mib"
        f"{smaller}, a smaller model or more memory",
    )


def cache_blocks(block_bytes: int, kv_cache_bytes: int, available: int | None) -> int:
    """Blocks of the cache: as many as were asked for, or a share of what is available.

    Args:
        block_bytes: Of all layers.
        kv_cache_bytes: What was asked for; 0 leaves it to the machine.
        available: From `available_bytes`, the weights already loaded.

    Raises:
        EngineError: `INVALID_ARGUMENT` if what was asked for does not hold two blocks, `MODEL_TOO_LARGE` if what is
            available does not.
    """
    if kv_cache_bytes:
        blocks = kv_cache_bytes // block_bytes
        if blocks < _LEAST_BLOCKS:
            raise EngineError(
                "INVALID_ARGUMENT",
                f"kv_cache_bytes={kv_cache_bytes} holds {blocks} blocks of {block_bytes} bytes; "
                f"give at least {_LEAST_BLOCKS * block_bytes}",
            )
        return blocks
    blocks = _MOST_BLOCKS if available is None else min(_MOST_BLOCKS, available // _SHARE // block_bytes)
    if blocks < _LEAST_BLOCKS:
        raise EngineError(
            "MODEL_TOO_LARGE", f"{(available or 0) >> 20} MiB are left and hold no cache; free some memory"
        )
    return blocks

"""The engines of this process: each directory is loaded once, in a thread, and shared by all who ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from moltbot_mesh.errors import InvalidArgument, MoltbotError, Unavailable
from moltbot_models.engine.config import EngineConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moltbot_models.encoder import Encoder
    from moltbot_models.engine.engine import TextEngine

E = TypeVar("E")


class EngineHost:
    """Loads engines on first use and closes them at the end.

    Args:
        config: How text engines are compiled and scheduled.
    """

    def __init__(self, config: EngineConfig | None = None) -> None:
        self._config = config or EngineConfig()
        self._texts: dict[Path, asyncio.Task[TextEngine]] = {}
        self._encoders: dict[Path, asyncio.Task[Encoder]] = {}
        self._closed = False

    async def text(self, path: Path) -> TextEngine:
        """The text engine of a model directory.

        Raises:
            EngineError: The directory cannot be loaded; the next call tries again.
            Unavailable: The host is closed.
        """
        return await self._loaded(self._texts, path, self._load_text)

    async def encoder(self, path: Path) -> Encoder:
        """The sentence encoder of a model directory.

        Raises:
            EncoderError: The directory cannot be loaded; the next call tries again.
            Unavailable: The host is closed.
        """
        return await self._loaded(self._encoders, path, self._load_encoder)

    async def aclose(self) -> None:
        """Close all engines; requests under way end with an error. May be called twice."""
        self._closed = True
        tasks, self._texts, self._encoders = self._texts, {}, {}
        for engine in await asyncio.gather(*tasks.values(), return_exceptions=True):
            if not isinstance(engine, BaseException):
                await asyncio.to_thread(engine.close)

    async def _loaded(self, there: dict[Path, asyncio.Task[E]], path: Path, load: Callable[[Path], E]) -> E:
        if self._closed:
            raise Unavailable(f"{path}: the engines are closed", reason="UPSTREAM_UNAVAILABLE")
        task = there.get(path)
        if task is None or (task.done() and task.exception() is not None):
            task = there[path] = asyncio.create_task(asyncio.to_thread(load, path), name="load-engine")
        # A caller that leaves must not stop the loading that others wait for.
        return await asyncio.shield(task)

    def _load_text(self, path: Path) -> TextEngine:
        # Imported on first use: OpenVINO takes half a second, and most upstreams are remote.
        from moltbot_models.engine.engine import TextEngine  # noqa: PLC0415

        return TextEngine.load(path, self._config)

    def _load_encoder(self, path: Path) -> Encoder:
        from moltbot_models.encoder import Encoder  # noqa: PLC0415 - as above

        return Encoder.load(path, threads=self._config.threads)


def engine_failure(model: str, reason: str, message: str) -> MoltbotError:
    """An `EngineError` as an error of the mesh, wherever the engine runs.

    Args:
        model: The manifest's id.
        reason: `EngineError.reason`.
        message: What it says; holds no text of a request.
    """
    said = f"{model}: {message}"
    match reason:
        case "INVALID_ARGUMENT":
            return InvalidArgument(said)
        case "REQUEST_TOO_LARGE":
            return InvalidArgument(said, reason="CONTEXT_LENGTH_EXCEEDED")
        case "QUEUE_FULL":
            return Unavailable(said, reason="UPSTREAM_UNAVAILABLE", retry_after_s=1.0)
        case "MODEL_UNSUPPORTED" | "MODEL_INVALID":
            return Unavailable(said, reason="MODEL_UNSUPPORTED")
        case _:
            return Unavailable(said, reason="UPSTREAM_UNAVAILABLE")

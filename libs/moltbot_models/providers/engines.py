"""The engines of this process: each model is loaded once, in a thread, shared by its users, closed by the last."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from moltbot_mesh.errors import InvalidArgument, MoltbotError, Unavailable
from moltbot_models.engine.config import EngineConfig
from moltbot_models.engine.options import config_of
from moltbot_models.manifest import engine_options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moltbot_models.encoder import Classifier, Encoder
    from moltbot_models.engine.engine import TextEngine
    from moltbot_models.manifest import Manifest

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What makes two models the same engine."""

    path: Path
    options: tuple[tuple[str, str], ...] = ()
    """Of the manifest, in order."""
    revision: str = ""

    @classmethod
    def of(cls, manifest: Manifest) -> EngineKey:
        """The key of a manifest's engine."""
        return cls(Path(manifest.path), tuple(sorted(engine_options(manifest).items())), manifest.revision)


class EngineHost:
    """Loads engines on first use and closes them at the end.

    Args:
        config: How text engines are compiled and scheduled, where a model's options do not say it.
    """

    def __init__(self, config: EngineConfig | None = None) -> None:
        self._config = config or EngineConfig()
        self._texts: dict[EngineKey, asyncio.Task[TextEngine]] = {}
        self._encoders: dict[EngineKey, asyncio.Task[Encoder]] = {}
        self._classifiers: dict[EngineKey, asyncio.Task[Classifier]] = {}
        self._users: Counter[EngineKey] = Counter()
        self._closed = False

    def enter(self, key: EngineKey) -> None:
        """Note a user of an engine, which stays until each has left."""
        self._users[key] += 1

    async def leave(self, key: EngineKey) -> None:
        """Close the engine after its last user; requests under way end with an error."""
        self._users[key] -= 1
        if self._users[key] > 0:
            return
        del self._users[key]
        self._encoders.pop(key, None)
        self._classifiers.pop(key, None)
        task = self._texts.pop(key, None)
        if task is not None:
            await _closed([task])

    async def text(self, key: EngineKey) -> TextEngine:
        """The text engine of a model.

        Raises:
            EngineError: The directory cannot be loaded; the next call tries again.
            Unavailable: The host is closed.
        """
        return await self._loaded(self._texts, key, self._load_text)

    def loaded_text(self, key: EngineKey) -> TextEngine | None:
        """The text engine of a model if it is loaded."""
        task = self._texts.get(key)
        return task.result() if task is not None and task.done() and task.exception() is None else None

    async def encoder(self, key: EngineKey) -> Encoder:
        """The sentence encoder of a model.

        Raises:
            EncoderError: The directory cannot be loaded; the next call tries again.
            Unavailable: The host is closed.
        """
        return await self._loaded(self._encoders, key, self._load_encoder)

    async def classifier(self, key: EngineKey) -> Classifier:
        """The classifier or reranker of a model.

        Raises:
            EncoderError: As for `encoder`.
            Unavailable: The host is closed.
        """
        return await self._loaded(self._classifiers, key, self._load_classifier)

    async def aclose(self) -> None:
        """Close all engines; requests under way end with an error. May be called twice."""
        self._closed = True
        tasks, self._texts, self._encoders = list(self._texts.values()), {}, {}
        await _closed(tasks)

    async def _loaded(
        self, there: dict[EngineKey, asyncio.Task[E]], key: EngineKey, load: Callable[[EngineKey], E]
    ) -> E:
        if self._closed:
            raise Unavailable(f"{key.path}: the engines are closed", reason="UPSTREAM_UNAVAILABLE")
        task = there.get(key)
        if task is None or (task.done() and task.exception() is not None):
            task = there[key] = asyncio.create_task(asyncio.to_thread(load, key), name="load-engine")
        # A caller that leaves must not stop the loading that others wait for.
        return await asyncio.shield(task)

    def _load_text(self, key: EngineKey) -> TextEngine:
        # Imported on first use: OpenVINO takes half a second, and most upstreams are remote.
        from moltbot_models.engine.engine import TextEngine  # noqa: PLC0415

        return TextEngine.load(key.path, config_of(dict(key.options), self._config))

    def _load_encoder(self, key: EngineKey) -> Encoder:
        from moltbot_models.encoder import Encoder, EncoderConfig  # noqa: PLC0415 - as above

        return Encoder.load(key.path, EncoderConfig.of(dict(key.options), self._config.threads))

    def _load_classifier(self, key: EngineKey) -> Classifier:
        from moltbot_models.encoder import Classifier, EncoderConfig  # noqa: PLC0415 - as above

        return Classifier.load(key.path, EncoderConfig.of(dict(key.options), self._config.threads))


async def _closed(tasks: Sequence[asyncio.Task[TextEngine]]) -> None:
    for engine in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(engine, BaseException):
            await asyncio.to_thread(engine.close)


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
        case "MODEL_UNSUPPORTED" | "MODEL_INVALID" | "MODEL_TOO_LARGE":
            return Unavailable(said, reason="MODEL_UNSUPPORTED")
        case _:
            return Unavailable(said, reason="UPSTREAM_UNAVAILABLE")

"""The models that the daemon runs itself: which, where, and the manifests that the router reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from moltbot_daemon.model_door import model_door
from moltbot_daemon.node_models import NodeModels
from moltbot_mesh.errors import InvalidArgument, MoltbotError
from moltbot_models.manifest import Manifest, taken
from moltbot_models.store.catalogue import ModelStore
from moltbot_models.store.source import check_weights, inspect

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from moltbot_daemon.model_door import ModelDoor
    from moltbot_daemon.places import Places
    from moltbot_daemon.settings import InferenceSettings
    from moltbot_models.triton.server import TritonServer

log = structlog.get_logger("moltbot.daemon")

EMBEDDER_ID = "minilm-l6"
_READY_S = 120.0


@dataclass(frozen=True, slots=True)
class Local:
    """The models of this node."""

    models: NodeModels
    triton: TritonServer | None
    """The child that serves them; `None`: they run in the gateway's process."""
    door: ModelDoor | None = None
    """By which other machines use them."""

    @property
    def manifests(self) -> Path:
        """The router's file."""
        return self.models.manifests

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run them, and follow the store, while the context is open."""
        async with contextlib.AsyncExitStack() as stack:
            if self.triton is not None:
                await stack.enter_async_context(self.triton.running())
            if self.door is not None:
                await stack.enter_async_context(self.door.running())
            await stack.enter_async_context(self.models.following())
            yield

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the node's own models have answered; those of the store come when they are loaded.

        Raises:
            FailedPrecondition: They never will.
            Unavailable: They did not in time.
        """
        if self.triton is not None:
            await self.triton.wait_ready(timeout_s)
        if self.door is not None:
            await self.door.wait_ready(timeout_s)


@contextlib.asynccontextmanager
async def serving(
    settings: InferenceSettings, places: Places, progress: Callable[[str], None], traces_url: str = ""
) -> AsyncGenerator[Path]:
    """Run Triton with the models of this node alone, as `moltbot serve triton`.

    Yields:
        The manifests for `router.models`, once every model has answered.

    Raises:
        MoltbotError: Triton cannot be had, or does not start.
    """
    only_triton = settings.model_copy(update={"engine": "triton"})
    local = await asyncio.to_thread(prepare, only_triton, places, progress, traces_url)
    async with local.running():
        await local.wait_ready(_READY_S)
        yield local.manifests


def shipped_model() -> Path:
    """The tiny model that every installation has."""
    return Path(str(files("moltbot_models") / "shipped" / "tiny"))


def text_model(settings: InferenceSettings) -> Path:
    """The directory of the text model. What is missing or damaged in it is told here, before an engine fails on it.

    Raises:
        InvalidArgument: It is not a Hugging Face directory, or a file in it is damaged.
    """
    path = (settings.model_path or shipped_model()).expanduser().absolute()
    for name in ("config.json", "tokenizer.json"):
        if not (path / name).is_file():
            raise InvalidArgument(
                f"{path}: not a Hugging Face model directory (no {name}); mend --model-path or inference.model_path"
            )
        try:
            json.loads((path / name).read_bytes())
        except ValueError as error:
            raise InvalidArgument(f"{path / name}: not JSON: {error}; download the model again") from None
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise InvalidArgument(f"{path}: no weights (*.safetensors); download the whole model")
    for file in weights:
        check_weights(file)
    return path


def prepare(
    settings: InferenceSettings, places: Places, progress: Callable[[str], None], traces_url: str = ""
) -> Local:
    """Fetch what is missing and write the manifests. Blocking.

    Args:
        settings: What to run.
        places: Where.
        progress: Told what is being done, in words.
        traces_url: Where Triton sends its spans; empty: it makes none.

    Raises:
        MoltbotError: The model is not there, or `engine: triton` and Triton cannot be had.
    """
    store = ModelStore(places.models_dir)
    fixed: list[Manifest] = []
    triton = None
    if settings.engine != "none":
        path = text_model(settings)
        model_id = settings.model_id or ("moltbot-tiny" if settings.model_path is None else path.name)
        found = inspect(path)
        text = Manifest(model_id, "text-generation", "embedded", path=str(path), context_length=found.context_length)
        own = [replace(text, marks=True, input_modalities=taken(("image",)) if found.takes_images else ())]
        embedder = _embedder(settings, places, progress)
        if embedder is not None:
            own.append(Manifest(EMBEDDER_ID, "embedding", "embedded", path=str(embedder)))
        triton = _triton(settings, places, progress, own, traces_url)
        fixed = own if triton is None else [replace(m, provider="triton", endpoint=triton.endpoint) for m in own]
    models = NodeModels(store, fixed, triton, places.run_dir, local=settings.engine != "none")
    models.write()
    return Local(models, triton, model_door(settings, places, triton))


def _embedder(settings: InferenceSettings, places: Places, progress: Callable[[str], None]) -> Path | None:
    if not settings.embedder:
        return None
    from moltbot_models.triton.provision import ensure_embedder  # noqa: PLC0415 - only where it is used

    try:
        return ensure_embedder(places.cache_dir, progress)
    except MoltbotError as error:
        log.warning("no embedder: its weights cannot be had", error=error.message)
        return None


def _triton(
    settings: InferenceSettings, places: Places, progress: Callable[[str], None], own: list[Manifest], traces_url: str
) -> TritonServer | None:
    if settings.engine == "embedded":
        return None
    from moltbot_models.store.placing import spec_of  # noqa: PLC0415
    from moltbot_models.triton.provision import ensure_triton  # noqa: PLC0415 - only where it is used
    from moltbot_models.triton.server import TritonServer  # noqa: PLC0415

    try:
        runtime = ensure_triton(places.cache_dir, progress)
    except MoltbotError as error:
        if settings.engine == "triton":
            raise
        log.warning("Triton cannot be had; the engine runs in this process", error=error.message)
        return None
    return TritonServer(
        runtime,
        [spec_of(manifest) for manifest in own],
        places.run_dir / "triton",
        threads=settings.threads,
        kv_cache_mib=settings.kv_cache_mib,
        traces_url=traces_url,
    )

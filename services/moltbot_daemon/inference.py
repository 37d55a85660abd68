"""The models that the daemon runs itself: which, where, and the manifests that the router reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import yaml

from moltbot_mesh.errors import InvalidArgument, MoltbotError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from moltbot_daemon.places import Places
    from moltbot_daemon.settings import InferenceSettings
    from moltbot_models.triton.server import TritonServer

log = structlog.get_logger("moltbot.daemon")

EMBEDDER_ID = "minilm-l6"
_MANIFESTS = "local-models.yaml"
_CONTEXT_LENGTH = 2048
_READY_S = 120.0


@dataclass(frozen=True, slots=True)
class Local:
    """The models of this node."""

    manifests: Path | None
    """The router's file; `None` if the node runs no model itself."""
    triton: TritonServer | None
    """The child that serves them; `None`: they run in this process."""

    def missing(self) -> list[str]:
        """What keeps them from answering."""
        return self.triton.missing() if self.triton else []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run them while the context is open."""
        if self.triton is None:
            yield
            return
        async with self.triton.running():
            yield


@contextlib.asynccontextmanager
async def serving(settings: InferenceSettings, places: Places, progress: Callable[[str], None]) -> AsyncGenerator[Path]:
    """Run Triton with the models of this node alone, as `moltbot serve triton`.

    Yields:
        The manifests for `router.models`, once every model has answered.

    Raises:
        MoltbotError: Triton cannot be had, or does not start.
    """
    local = await asyncio.to_thread(prepare, settings.model_copy(update={"engine": "triton"}), places, progress)
    assert local.triton is not None
    assert local.manifests is not None
    async with local.running():
        await local.triton.wait_ready(_READY_S)
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
        _check_weights(file)
    return path


def _check_weights(file: Path) -> None:
    """Look at the header. Source: https://github.com/huggingface/safetensors#format."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        size = file.stat().st_size
        try:
            header: dict[str, Any] = json.loads(stream.read(length)) if 8 + length <= size else {}
            end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
            whole = bool(8 + length + end <= size)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            whole = False
    if not whole:
        raise InvalidArgument(f"{file}: damaged or cut off; download the model again")


def prepare(settings: InferenceSettings, places: Places, progress: Callable[[str], None]) -> Local:
    """Fetch what is missing and write the manifests. Blocking.

    Args:
        settings: What to run.
        places: Where.
        progress: Told what is being done, in words.

    Raises:
        MoltbotError: The model is not there, or `engine: triton` and Triton cannot be had.
    """
    if settings.engine == "none":
        return Local(None, None)
    path = text_model(settings)
    model_id = settings.model_id or ("moltbot-tiny" if settings.model_path is None else path.name)
    embedder = _embedder(settings, places, progress)
    triton = _triton(settings, places, progress, model_id, path, embedder)
    where = {"provider": "triton", "endpoint": triton.endpoint} if triton else {"provider": "embedded"}
    models: list[dict[str, object]] = [
        {
            "id": model_id,
            "type": "text-generation",
            "path": str(path),
            "context_length": _CONTEXT_LENGTH,
            "marks": True,
            **where,
        }
    ]
    if embedder is not None:
        models.append({"id": EMBEDDER_ID, "type": "embedding", "path": str(embedder), **where})
    file = places.run_dir / _MANIFESTS
    file.write_text("# Written by the daemon at each start.\n" + yaml.safe_dump({"models": models}, sort_keys=False))
    return Local(file, triton)


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
    settings: InferenceSettings,
    places: Places,
    progress: Callable[[str], None],
    model_id: str,
    path: Path,
    embedder: Path | None,
) -> TritonServer | None:
    if settings.engine == "embedded":
        return None
    from moltbot_models.triton.provision import ensure_triton  # noqa: PLC0415 - only where it is used
    from moltbot_models.triton.repository import ModelSpec  # noqa: PLC0415
    from moltbot_models.triton.server import TritonServer  # noqa: PLC0415

    try:
        runtime = ensure_triton(places.cache_dir, progress)
    except MoltbotError as error:
        if settings.engine == "triton":
            raise
        log.warning("Triton cannot be had; the engine runs in this process", error=error.message)
        return None
    specs = [ModelSpec(model_id, "text-generation", path)]
    if embedder is not None:
        specs.append(ModelSpec(EMBEDDER_ID, "embedding", embedder))
    return TritonServer(
        runtime, specs, places.run_dir / "triton", threads=settings.threads, kv_cache_mib=settings.kv_cache_mib
    )

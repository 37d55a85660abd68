"""Compiles model specifications to a Triton model repository.

Source: triton-inference-server/server docs, model_configuration.md and model_repository.md.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, cast

import moltbot_models
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument
from moltbot_models.engine.config import CHUNK_TOKENS
from moltbot_models.triton.text_configs import ensemble, text_body, vision_body

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moltbot_models.engine.config import ComputePrecision

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_TEXT_DEFAULTS = {
    "chunk_tokens": str(CHUNK_TOKENS["f32"]),  # that of bf16 where `compute` says so
    "compute": "f32",
    "context_length": "0",
    "deterministic": "false",
    "kv": "u8",
    "kv_cache_mib": "256",
    "max_queue": "256",
    "step_tokens": "256",
    "threads": "0",
    "weights": "u8",
}
_ENCODER_DEFAULTS = {
    "batch_texts": "16",
    "bucket_tokens": "16",
    "dynamic_batching": "true",
    "precision": "auto",
    "queue_delay_us": "0",
    "ranges": "",
    "threads": "0",
}
_VISION_DEFAULTS = {"batch_images": "8", "image_queue_delay_us": "0"}
"""Beside those of text, for models that take images."""
_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "text-generation": _TEXT_DEFAULTS,
    "embedding": {**_ENCODER_DEFAULTS, "dimensions": "384"},
    "rerank": _ENCODER_DEFAULTS,
    "classification": _ENCODER_DEFAULTS,
}
_CHOICES = {
    "compute": ("f32", "bf16"),
    "deterministic": ("true", "false"),
    "dynamic_batching": ("true", "false"),
    "kv": ("u8", "bf16", "f32"),
    "precision": ("auto", "int8", "bf16", "f32"),
    "weights": ("u8", "i8", "u4", "f32", "bf16"),
}
_LEAST_1, _MOST = ("batch_images", "batch_texts", "bucket_tokens"), 512
LABELS = "labels"
"""The parameter of a classifier's configuration that names its classes: a JSON list."""
MAX_BATCH_TEXTS = 64
"""Texts in one request to an encoder, and in one dynamic batch."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model for Triton to serve."""

    id: str
    """The manifest's id; `triton_name` makes Triton's name of it."""
    task: Literal["text-generation", "embedding", "rerank", "classification"]
    path: Path
    """A Hugging Face directory: a decoder for text-generation, else a BERT or RoBERTa encoder."""
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Of the engine, as texts: the fields of `EngineConfig` (`kv_cache_mib` for the cache), or of `EncoderConfig`,
    with `dynamic_batching`, `queue_delay_us` and, for embeddings, `dimensions`."""
    labels: tuple[str, ...] = ()
    """The classes' names, for classification."""
    image_rows: tuple[int, int] | None = None
    """Of a text model that takes images: tokens of one, and numbers in a row. It is served as an ensemble."""


def triton_name(model_id: str) -> str:
    """The directory's and model's name in Triton: the id where it is a safe file name, else made safe and unique."""
    safe = _UNSAFE.sub("_", model_id)
    return safe if safe == model_id else f"{safe}-{hashlib.sha256(model_id.encode()).hexdigest()[:8]}"


def write_repository(root: Path, specs: Sequence[ModelSpec], *, library: Path | None = None) -> None:
    """Write a model repository, replacing what is at `root`.

    Args:
        root: The repository's directory, for this installation alone.
        specs: What to serve.
        library: Where `moltbot_models` is importable from; this installation's by default.

    Raises:
        InvalidArgument: An option is unknown or has no such value, or two models have one name.
        FailedPrecondition: The directory cannot be written.
    """
    if len({triton_name(spec.id) for spec in specs}) != len(specs):
        raise InvalidArgument("two models for Triton have the same id; rename one in the manifests")
    for spec in specs:
        configs_of(spec, root)  # refused before anything is replaced
    try:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
    except OSError as error:
        raise FailedPrecondition(f"{root}: cannot be written: {error.strerror}") from None
    for spec in specs:
        write_model(root, spec, library=library)


def write_model(root: Path, spec: ModelSpec, version: int = 1, *, library: Path | None = None) -> None:
    """Write one model beside the others; its older versions go, what Triton has loaded of them stays loaded.

    Args:
        root: The repository's directory.
        spec: What to serve.
        version: Triton's number; a greater one makes a running Triton load it anew.
        library: As in `write_repository`.

    Raises:
        InvalidArgument: An option is unknown or has no such value.
        FailedPrecondition: The directory cannot be written.
    """
    configs = configs_of(spec, library or _own_library(), version)
    model = resources.files("moltbot_models.triton").joinpath("model.py.template").read_text("utf-8")
    for name, config in configs.items():
        directory = root / name
        try:
            shutil.rmtree(directory, ignore_errors=True)
            (directory / str(version)).mkdir(parents=True)
            if config.backend:
                (directory / str(version) / "model.py").write_text(model, "utf-8")
            (directory / "config.pbtxt").write_text(config.text, "utf-8")
        except OSError as error:
            raise FailedPrecondition(f"{directory}: cannot be written: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Config:
    """One model of a repository."""

    text: str
    """Of config.pbtxt."""
    backend: bool = True
    """Whether code of ours runs it; an ensemble has none."""


def part_names(model_id: str, version: int) -> tuple[str, str]:
    """Triton's names of the eyes and the text model within an ensemble.

    They carry the ensemble's version, so that an old and a new one never share a part; `~` is in no name of a model.
    """
    name = triton_name(model_id)
    return f"{name}~vision-{version}", f"{name}~text-{version}"


def configs_of(spec: ModelSpec, library: Path, version: int = 1) -> dict[str, Config]:
    """The models that serve a specification, by Triton's names, in the order in which they are loaded.

    Raises:
        InvalidArgument: An option is unknown or has no such value.
    """
    name = triton_name(spec.id)
    if spec.image_rows is None:
        return {name: Config(config_of(spec, library))}
    options = checked_options(spec.id, spec.task, {**_VISION_DEFAULTS, **spec.options})
    delay_us = options.pop("image_queue_delay_us")
    seeing, telling = part_names(spec.id, version)
    own = {"library_path": str(library), "path": str(spec.path.absolute())} | options
    return {
        seeing: Config(_python(seeing, vision_body(spec.image_rows, delay_us), own | {"task": "vision"})),
        telling: Config(
            _python(telling, text_body(spec.image_rows), own | {"task": spec.task, "encodes_images": "false"})
        ),
        name: Config(ensemble(name, seeing, telling), backend=False),
    }


def config_of(spec: ModelSpec, library: Path) -> str:
    """The text of a model's config.pbtxt.

    Raises:
        InvalidArgument: An option is unknown or has no such value.
    """
    options = checked_options(spec.id, spec.task, spec.options)
    body = text_body() if spec.task == "text-generation" else _encoder_body(spec, options)
    parameters = options | {"library_path": str(library), "path": str(spec.path.absolute()), "task": spec.task}
    if spec.labels:
        parameters[LABELS] = json.dumps(spec.labels, ensure_ascii=False)
    return _python(triton_name(spec.id), body, parameters)


def _python(name: str, body: Sequence[str], parameters: Mapping[str, str]) -> str:
    """A model of the Python backend."""
    head = [f"name: {json.dumps(name)}", 'backend: "python"']
    tail = [
        f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value, ensure_ascii=False)} }} }}"
        for key, value in sorted(parameters.items())
    ]
    return "\n".join([*head, *body, "instance_group [ { count: 1 kind: KIND_CPU } ]", *tail]) + "\n"


def _encoder_body(spec: ModelSpec, options: Mapping[str, str]) -> list[str]:
    inputs = ["QUERY", "TEXT"] if spec.task == "rerank" else ["TEXT"]
    taken = ", ".join(f'{{ name: "{name}" data_type: TYPE_STRING dims: [ 1 ] }}' for name in inputs)
    name, width = "SCORES", str(max(1, len(spec.labels)))
    if spec.task == "embedding":
        name, width = "EMBEDDING", options["dimensions"]
    batching = f"dynamic_batching {{ max_queue_delay_microseconds: {options['queue_delay_us']} }}"
    return [
        f"max_batch_size: {MAX_BATCH_TEXTS}",
        *([batching] if options["dynamic_batching"] == "true" else []),
        f"input [ {taken} ]",
        "output [",
        f'  {{ name: "{name}" data_type: TYPE_FP32 dims: [ {width} ] }},',
        '  { name: "TOKENS" data_type: TYPE_INT32 dims: [ 1 ] }',
        "]",
    ]


def checked_options(model_id: str, task: str, options: Mapping[str, str]) -> dict[str, str]:
    """All options of a model, the defaults filled in.

    Raises:
        InvalidArgument: An option is unknown or has no such value.
    """
    known = _DEFAULTS[task]
    possible = {**known, **(_VISION_DEFAULTS if task == "text-generation" else {})}
    for key, value in options.items():
        if key not in possible:
            raise InvalidArgument(f"model {model_id}: unknown option {key}; known here: {', '.join(possible)}")
        choices = _CHOICES.get(key)
        if choices and value not in choices:
            raise InvalidArgument(f"model {model_id}: {key} must be one of {', '.join(choices)}")
        if not choices and key != "ranges" and not (value.isascii() and value.isdigit()):
            raise InvalidArgument(f"model {model_id}: {key} must be a whole number")
        if key in _LEAST_1 and not 1 <= int(value) <= _MOST:
            raise InvalidArgument(f"model {model_id}: {key} must be 1 to {_MOST}")
    chosen = {**known, **options}
    if task == "text-generation" and "chunk_tokens" not in options:
        chosen["chunk_tokens"] = str(CHUNK_TOKENS[cast("ComputePrecision", chosen["compute"])])
    return chosen


def _own_library() -> Path:
    return Path(moltbot_models.__file__).absolute().parent.parent

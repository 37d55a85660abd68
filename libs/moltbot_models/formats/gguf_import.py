"""Turns a GGUF file into the Hugging Face directory that the engine reads; an offline step, done once."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moltbot_mesh.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from moltbot_models.engine.architecture import read_architecture
from moltbot_models.engine.config import EngineError
from moltbot_models.engine.tensor_shapes import tensor_shapes
from moltbot_models.formats.gguf_architecture import translate, unpermuted
from moltbot_models.formats.gguf_file import read_gguf
from moltbot_models.formats.gguf_tokenizer import import_tokenizer
from moltbot_models.formats.safetensors_writer import write_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from moltbot_models.formats.gguf_architecture import Translation
    from moltbot_models.formats.gguf_file import GgufFile, GgufTensor
    from moltbot_models.formats.gguf_tokenizer import ImportedTokenizer

_SAMPLING = {"temp": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}
_F16_MAX = 65504.0


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of a file."""

    path: Path
    """The Hugging Face directory."""
    architecture: str
    """transformers' class, such as `LlamaForCausalLM`."""
    parameters: int
    kinds: Mapping[str, int]
    """How many tensors the file held of each kind of ggml."""
    size_bytes: int
    """Of model.safetensors."""
    name: str
    """What the file calls itself; empty if it does not."""
    license: str
    """As the file states it; empty if it does not."""


def import_gguf(file: Path, out: Path, progress: Callable[[int, int], None] = lambda _done, _all: None) -> Imported:
    """Write `out` with config.json, model.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json.

    Numbers that ggml stores as F16 or quantised become F16, BF16 and F32 stay what they are. One tensor at a time is
    held in memory. `out` appears whole or not at all.

    Args:
        file: A GGUF file of a Llama, Qwen2, Qwen3 or Mistral.
        out: The directory to make; must not exist.
        progress: Called after each tensor with tensors written and tensors in all.

    Raises:
        InvalidArgument: The file is damaged, or holds something that is not built; the message names it.
        AlreadyExists: `out` exists.
        FailedPrecondition: A file cannot be read or written, the disk is too small, or the gguf package is missing.
    """
    if out.exists():
        raise AlreadyExists(f"{out} exists; name a directory that does not, or remove it")
    source = read_gguf(file)
    try:
        translation = translate(source)
        layout = _layout(source, translation)
        tokenizer = import_tokenizer(source.metadata, translation.config["vocab_size"])
    except InvalidArgument as error:
        raise InvalidArgument(f"{file}: {error}") from None
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _check_space(partial, layout)
        _write_texts(partial, source, translation, tokenizer)
        size = write_tensors(partial / "model.safetensors", layout, _tensors(source, translation, layout, progress))
        partial.rename(out)
    except OSError as error:
        raise FailedPrecondition(f"{out} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    kinds = [tensor.kind for tensor in source.tensors.values()]
    return Imported(
        path=out,
        architecture=translation.config["architectures"][0],
        parameters=sum(int(np.prod(shape)) for _, shape in layout.values()),
        kinds={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        size_bytes=size,
        name=str(source.metadata.get("general.name", "")),
        license=str(source.metadata.get("general.license", "")),
    )


def _layout(source: GgufFile, translation: Translation) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Kind and shape of every tensor to write, checked against what the engine will look for."""
    try:
        wanted = tensor_shapes(read_architecture(translation.config, None))
    except EngineError as error:
        raise InvalidArgument(str(error)) from None
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, target in translation.names.items():
        tensor = source.tensors[name]
        if target not in wanted:
            raise InvalidArgument(f"the tensor {name} has no place in {translation.config['architectures'][0]}")
        if tensor.shape != wanted[target]:
            raise InvalidArgument(f"{name} has shape {tensor.shape}, the metadata imply {wanted[target]}")
        layout[target] = (tensor.kind if tensor.kind in {"F32", "BF16"} else "F16", tensor.shape)
    if missing := sorted(set(wanted) - set(layout)):
        raise InvalidArgument(f"{len(missing)} tensors are missing, such as {missing[0]}; convert the model again")
    return layout


def _tensors(
    source: GgufFile,
    translation: Translation,
    layout: Mapping[str, tuple[str, tuple[int, ...]]],
    progress: Callable[[int, int], None],
) -> Iterator[tuple[str, NDArray[Any]]]:
    for done, (name, target) in enumerate(translation.names.items(), 1):
        data = _stored(source.tensors[name], layout[target][0])
        heads = translation.permuted.get(name)
        yield target, data if heads is None else unpermuted(data, heads)
        progress(done, len(layout))


def _stored(tensor: GgufTensor, kind: str) -> NDArray[Any]:
    if kind == "BF16":
        return tensor.data.view(np.uint16).reshape(tensor.shape)
    values = tensor.to_f32()
    if not np.isfinite(values).all() or (kind == "F16" and np.abs(values).max() > _F16_MAX):
        raise InvalidArgument(f"{tensor.name} holds numbers that are not finite or beyond 16 bits; copy the file again")
    return values if kind == "F32" else values.astype(np.float16)


def _write_texts(directory: Path, source: GgufFile, translation: Translation, tokenizer: ImportedTokenizer) -> None:
    generation: dict[str, Any] = {"eos_token_id": tokenizer.end_tokens}
    if tokenizer.begin_token is not None:
        generation["bos_token_id"] = tokenizer.begin_token
    for key, name in _SAMPLING.items():
        value = source.metadata.get(f"general.sampling.{key}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            generation[name] = value if isinstance(value, int) else float(f"{value:.6g}")
    if "temperature" in generation:
        generation["do_sample"] = generation["temperature"] > 0
    config = translation.config | {"bos_token_id": tokenizer.begin_token, "eos_token_id": tokenizer.end_tokens}
    files = {"config.json": config, "generation_config.json": generation, "tokenizer_config.json": tokenizer.config}
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8")
    tokenizer.tokenizer.save(str(directory / "tokenizer.json"))


def _check_space(directory: Path, layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    needed = sum(int(np.prod(shape)) * (4 if kind == "F32" else 2) for kind, shape in layout.values())
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise FailedPrecondition(
            f"the model takes {needed >> 20} MiB and {directory.parent} has {free >> 20} MiB free; make room there"
        )

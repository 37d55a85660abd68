"""A Hugging Face directory: what its files say, read once at load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tokenizers import Tokenizer

from moltbot_models.engine.chat_template import ChatTemplate
from moltbot_models.engine.config import EngineError
from moltbot_models.engine.control_tokens import ControlTokens
from moltbot_models.engine.detokenize import Vocabulary
from moltbot_models.engine.text_config import text_config

if TYPE_CHECKING:
    from pathlib import Path

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """Everything but the weights."""

    config: dict[str, Any]
    generation: dict[str, Any]
    """generation_config.json; empty if there is none."""
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    controls: ControlTokens
    template: ChatTemplate | None
    end_tokens: frozenset[int]
    """Tokens that end an answer."""
    longest_token: int
    """Characters."""


def read_model_directory(path: Path) -> ModelDirectory:
    """Read config.json, generation_config.json, tokenizer.json, tokenizer_config.json and the chat template.

    Raises:
        EngineError: `MODEL_INVALID` if a file is missing or malformed, `MODEL_UNSUPPORTED` for a tokenizer whose
            decoder is not built.
    """
    config = _json(path / "config.json", required=True)
    generation = _json(path / "generation_config.json", required=False)
    tokenizer_config = _json(path / "tokenizer_config.json", required=False)
    tokenizer = _tokenizer(path / "tokenizer.json")
    special = _special_tokens(tokenizer_config)
    ends = {token for one in (generation, config, text_config(config)) for token in _ids(one.get("eos_token_id"))}
    end_token = tokenizer.token_to_id(special["eos_token"]) if "eos_token" in special else None
    if end_token is not None:
        ends.add(end_token)
    source = _template_source(path, tokenizer_config)
    vocabulary, image_token = Vocabulary(tokenizer), _image_token(config, tokenizer)
    controls = {vocabulary.bytes_of(token).decode() for token in vocabulary.special}
    return ModelDirectory(
        config=config,
        generation=generation,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        controls=ControlTokens(controls | ({image_token} if image_token else set())),
        template=ChatTemplate(source, special, image_token) if source else None,
        end_tokens=frozenset(ends),
        longest_token=max(map(len, tokenizer.get_vocab()), default=1),
    )


def _json(file: Path, *, required: bool) -> dict[str, Any]:
    if not file.exists():
        if required:
            raise EngineError("MODEL_INVALID", f"{file} is missing: give a Hugging Face model directory")
        return {}
    try:
        value = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise EngineError("MODEL_INVALID", f"{file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise EngineError("MODEL_INVALID", f"{file} must hold a JSON object")
    return cast("dict[str, Any]", value)


def _tokenizer(file: Path) -> Tokenizer:
    if not file.exists():
        raise EngineError(
            "MODEL_INVALID", f"{file} is missing: the engine reads the fast tokenizer's file, not tokenizer.model"
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the binding raises bare Exception
        raise EngineError("MODEL_INVALID", f"{file} is not a tokenizer: {error}") from error
    # A file saved while training may cut or pad what it encodes.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _image_token(config: dict[str, Any], tokenizer: Tokenizer) -> str:
    """The text that stands in a prompt for an image; empty for a model of text alone."""
    if text_config(config) is config:
        return ""
    token = config.get("image_token_index", config.get("image_token_id", 32000))
    text = tokenizer.id_to_token(token) if type(token) is int and token >= 0 else None
    if text is None:
        raise EngineError("MODEL_INVALID", f"config.json: image_token_index {token!r} is no token of tokenizer.json")
    return text


def _special_tokens(tokenizer_config: dict[str, Any]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for name in _SPECIAL_TOKENS:
        value = tokenizer_config.get(name)
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get("content")
        if isinstance(value, str):
            tokens[name] = value
    return tokens


def _template_source(path: Path, tokenizer_config: dict[str, Any]) -> str | dict[str, str] | None:
    file = path / "chat_template.jinja"
    if file.exists():
        return file.read_text("utf-8")
    processor = _json(path / "chat_template.json", required=False).get("chat_template")
    if isinstance(processor, str):
        return processor  # where the processors of older vision-language models have it
    source = tokenizer_config.get("chat_template")
    if isinstance(source, list):
        return {str(one["name"]): str(one["template"]) for one in cast("list[dict[str, Any]]", source)}
    return cast("str | None", source)


def _ids(value: object) -> list[int]:
    if isinstance(value, int):
        return [value]
    return [int(one) for one in cast("list[int]", value)] if isinstance(value, list) else []

"""From a request to the tokens the model continues."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moltbot_models.engine.config import EngineError
from moltbot_models.engine.tool_calls import OPEN

if TYPE_CHECKING:
    from moltbot_models.engine.model_directory import ModelDirectory
    from moltbot_models.generation import GenerationRequest, Sampling


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is given."""

    tokens: list[int]
    opening: str = ""
    """The end of the prompt that belongs to the answer: a tool call that the request demands has been begun for it."""
    parses_tool_calls: bool = False


def build_prompt(directory: ModelDirectory, request: GenerationRequest, vocabulary: int) -> Prompt:
    """Render and tokenise a request.

    Args:
        directory: The model's tokenizer and template.
        request: What is asked.
        vocabulary: Rows of the model's embedding.

    Raises:
        EngineError: `INVALID_ARGUMENT` naming the field that cannot be served.
    """
    check_sampling(request.sampling)
    if request.prompt is not None:
        if request.messages:
            raise EngineError("INVALID_ARGUMENT", "give either prompt or messages, not both")
        prompt = Prompt(_tokens(directory, request.prompt, special=True))
    else:
        prompt = _conversation(directory, request)
    if not prompt.tokens:
        raise EngineError("INVALID_ARGUMENT", "the prompt is empty: give at least one token")
    if max(prompt.tokens) >= vocabulary:
        raise EngineError("INVALID_ARGUMENT", f"the prompt holds a token that the model's {vocabulary} rows lack")
    return prompt


def _conversation(directory: ModelDirectory, request: GenerationRequest) -> Prompt:
    template = directory.template
    if template is None:
        raise EngineError("INVALID_ARGUMENT", "this model has no chat template: send prompt instead of messages")
    if not request.messages:
        raise EngineError("INVALID_ARGUMENT", "messages is empty: give at least one message, or prompt")
    tools = () if request.tool_choice == "none" else request.tools
    parses = bool(tools) and OPEN in template.text
    opening = ""
    if tools and request.tool_choice != "auto":
        if not parses:
            raise EngineError("INVALID_ARGUMENT", "tool_choice cannot be enforced: the model's template knows no calls")
        opening = _opening(request)
    text = template.render(request.messages, tools) + opening
    # The template writes the special tokens itself.
    return Prompt(_tokens(directory, text, special=False), opening, parses)


def _opening(request: GenerationRequest) -> str:
    if request.tool_choice == "required":
        return f'{OPEN}\n{{"name": "'
    if request.tool_choice not in {tool.name for tool in request.tools}:
        raise EngineError("INVALID_ARGUMENT", f"tool_choice {request.tool_choice!r} is not among the tools")
    # No space at the end: the tokenizer joins it to the bracket that follows.
    return f'{OPEN}\n{{"name": {json.dumps(request.tool_choice, ensure_ascii=False)}, "arguments":'


def _tokens(directory: ModelDirectory, text: str, *, special: bool) -> list[int]:
    try:
        return directory.tokenizer.encode(text, add_special_tokens=special).ids
    except (TypeError, UnicodeEncodeError) as error:
        raise EngineError(
            "INVALID_ARGUMENT", "the text holds half of a surrogate pair, which is no character"
        ) from error


def check_sampling(sampling: Sampling) -> None:
    """Refuse numbers outside their range.

    Raises:
        EngineError: `INVALID_ARGUMENT` naming the field.
    """
    ranges: tuple[tuple[str, float | None, float, float], ...] = (
        ("max_tokens", sampling.max_tokens, 1, float("inf")),
        ("temperature", sampling.temperature, 0, 100),
        ("top_p", sampling.top_p, 0, 1),
        ("top_k", sampling.top_k, -1, float("inf")),
        ("min_p", sampling.min_p, 0, 1),
        ("frequency_penalty", sampling.frequency_penalty, -2, 2),
        ("presence_penalty", sampling.presence_penalty, -2, 2),
        ("top_logprobs", sampling.top_logprobs, 0, 20),
        ("seed", sampling.seed, -(2**63), 2**64),
    )
    for name, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise EngineError("INVALID_ARGUMENT", f"{name} must be between {low:g} and {high:g}, it is {value}")

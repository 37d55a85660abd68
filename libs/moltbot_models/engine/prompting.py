"""From a request to the tokens the model continues."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from moltbot_models.engine.call_grammar import call_grammar, free_grammar
from moltbot_models.engine.config import EngineError
from moltbot_models.engine.control_tokens import pieces
from moltbot_models.engine.images import images_of, spread
from moltbot_models.engine.reasoning import CLOSED, opened, thinks
from moltbot_models.engine.tool_dialects import LLAMA, dialect_of

if TYPE_CHECKING:
    from moltbot_models.engine.model_directory import ModelDirectory
    from moltbot_models.engine.tool_dialects import ToolDialect
    from moltbot_models.generation import GenerationRequest, ResponseFormat, Sampling
    from moltbot_models.vision.shape import VisionShape

Thoughts = Literal["none", "some", "opened"]
_SHRINKING = 2
"""How much shorter a tokenizer's normaliser may make a text."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is given."""

    tokens: list[int]
    opening: str = ""
    """The end of the prompt that belongs to the answer: a tool call that the request demands has been begun for it."""
    dialect: ToolDialect | None = None
    """How calls are written, if there may be some."""
    grammar: ResponseFormat | None = None
    """What the rest of a demanded tool call must look like, or calls of strict tools in an answer that is free."""
    unasked: ResponseFormat | None = None
    """The same with the schemas of the mesh's tools, to be kept to instead where that can be."""
    thoughts: Thoughts = "none"
    """Whether the answer may begin with thoughts, or the prompt has opened them."""
    images: tuple[tuple[str, bytes], ...] = ()
    """Places in the request and files, in their order."""
    image_begins: tuple[int, ...] = ()
    """The first token of each image."""


def build_prompt(
    directory: ModelDirectory,
    request: GenerationRequest,
    vocabulary: int,
    most_tokens: int,
    vision: VisionShape | None = None,
) -> Prompt:
    """Render and tokenise a request.

    Args:
        directory: The model's tokenizer and template.
        request: What is asked.
        vocabulary: Rows of the model's embedding.
        vision: The model's eyes, if it has some.
        most_tokens: That prompt and answer together may have. The caller checks it; here a text that cannot have so few
            is refused before it is tokenised, which takes seconds and a hundred times its memory.

    Raises:
        EngineError: `INVALID_ARGUMENT` naming the field that cannot be served, `REQUEST_TOO_LARGE`.
    """
    check_sampling(request.sampling)
    images = images_of(request.messages, taken=vision is not None)
    if request.sampling.min_tokens and request.response_format is not None:
        raise EngineError("INVALID_ARGUMENT", "min_tokens cannot go with response_format, whose end is its own")
    if request.prompt is not None:
        if request.messages:
            raise EngineError("INVALID_ARGUMENT", "give either prompt or messages, not both")
        prompt = Prompt(_tokens(directory, [request.prompt], most_tokens, special=True))
    else:
        prompt = _conversation(directory, request, most_tokens)
    if vision is not None:
        prompt = _with_images(prompt, images, vision)
    if any(token >= vocabulary for token in request.sampling.stop_token_ids):
        raise EngineError(
            "INVALID_ARGUMENT", f"stop_token_ids must be below {vocabulary}, the model's number of tokens"
        )
    if not prompt.tokens:
        raise EngineError("INVALID_ARGUMENT", "the prompt is empty: give at least one token")
    if max(prompt.tokens) >= vocabulary:
        raise EngineError("INVALID_ARGUMENT", f"the prompt holds a token that the model's {vocabulary} rows lack")
    return prompt


def _with_images(prompt: Prompt, images: list[tuple[str, bytes]], vision: VisionShape) -> Prompt:
    tokens, begins = spread(prompt.tokens, vision.image_token, vision.tokens)
    if len(begins) > len(images):
        raise EngineError("INVALID_ARGUMENT", "the text holds the token that stands for an image; leave it out")
    if len(begins) < len(images):
        raise EngineError(
            "INVALID_ARGUMENT",
            f"the model's chat template shows {len(begins)} of {len(images)} images: put them into user messages",
        )
    return replace(prompt, tokens=tokens, images=tuple(images), image_begins=tuple(begins))


def _conversation(directory: ModelDirectory, request: GenerationRequest, most_tokens: int) -> Prompt:
    template = directory.template
    if template is None:
        raise EngineError("INVALID_ARGUMENT", "this model has no chat template: send prompt instead of messages")
    if not request.messages:
        raise EngineError("INVALID_ARGUMENT", "messages is empty: give at least one message, or prompt")
    tools = () if request.tool_choice == "none" else request.tools
    dialect = dialect_of(template.text) if tools else None
    if tools and request.tool_choice == "auto" and request.response_format is not None:
        raise EngineError(
            "INVALID_ARGUMENT", 'response_format leaves no room for calls: send no tools, or choice "none"'
        )
    opening, grammar, unasked = "", None, None
    if tools and request.tool_choice != "auto":
        if dialect is None:
            raise EngineError("INVALID_ARGUMENT", "tool_choice cannot be enforced: the model's template knows no calls")
        if request.response_format is not None:
            raise EngineError("INVALID_ARGUMENT", "response_format cannot go with a tool_choice that demands a call")
        opening = _opening(request, dialect)
        grammar = call_grammar(request, directory, dialect)
    elif dialect is not None:
        asked = [replace(tool, mesh=False) for tool in tools]
        if any(tool.strict for tool in asked):
            grammar = free_grammar(asked, directory, dialect)
        if _may_keep_unasked(request, dialect):
            unasked = free_grammar(tools, directory, dialect)
    fence = directory.controls
    text = template.render(
        [fence.message(message) for message in request.messages],
        [fence.tool(tool) for tool in tools],
        dict(request.template_options),
    )
    thoughts: Thoughts = "some" if thinks(template.text) else "none"
    if opened(text):
        thoughts = "opened"
        if opening or request.response_format is not None:
            # What must be of a form begins with it.
            text, thoughts = text.rstrip() + CLOSED, "none"
    # The template writes the special tokens itself.
    tokens = _tokens(directory, pieces(text + opening), most_tokens, special=False)
    return Prompt(tokens, opening, dialect, grammar, unasked, "none" if opening else thoughts)


def _may_keep_unasked(request: GenerationRequest, dialect: ToolDialect) -> bool:
    """Whether calls of the mesh's tools may be kept to their schemas though nobody asked for it.

    It must not end an answer that is to be longer, keep a token away that is to end it, or turn an answer that is JSON
    into a call, as with Llama's dialect, whose calls begin with a bracket.
    """
    sampling = request.sampling
    free = not (sampling.min_tokens or sampling.stop_token_ids or sampling.ignore_eos)
    return free and dialect is not LLAMA and any(tool.mesh for tool in request.tools)


def _opening(request: GenerationRequest, dialect: ToolDialect) -> str:
    if request.tool_choice == "required":
        return dialect.head
    if request.tool_choice not in {tool.name for tool in request.tools}:
        raise EngineError("INVALID_ARGUMENT", f"tool_choice {request.tool_choice!r} is not among the tools")
    # No space at the end: the tokenizer joins it to the bracket that follows.
    return f"{dialect.head}{dialect.written(request.tool_choice)}{dialect.between}"


def _tokens(directory: ModelDirectory, texts: list[str], most_tokens: int, *, special: bool) -> list[int]:
    most = most_tokens * directory.longest_token * _SHRINKING
    length = sum(map(len, texts))
    if length > most:
        raise EngineError(
            "REQUEST_TOO_LARGE",
            f"the prompt has {length} characters: more than {most_tokens} tokens, which prompt and answer may have",
        )
    if len(texts) > most_tokens:
        # Each is a token at least, and costs a kilobyte while it is tokenised.
        raise EngineError(
            "REQUEST_TOO_LARGE",
            f"the prompt spells out {len(texts) - 1} control tokens: more than {most_tokens} tokens, which prompt and "
            "answer may have",
        )
    try:
        # Of a batch, for a single text is encoded with the interpreter's lock held.
        encodings = directory.tokenizer.encode_batch_fast(texts, add_special_tokens=special)
    except (TypeError, UnicodeEncodeError) as error:
        raise EngineError(
            "INVALID_ARGUMENT", "the text holds half of a surrogate pair, which is no character"
        ) from error
    return encodings[0].ids if len(encodings) == 1 else [token for encoding in encodings for token in encoding.ids]


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
        ("min_tokens", sampling.min_tokens, 0, float("inf")),
        ("seed", sampling.seed, -(2**63), 2**64),
    )
    for name, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise EngineError("INVALID_ARGUMENT", f"{name} must be between {low:g} and {high:g}, it is {value}")

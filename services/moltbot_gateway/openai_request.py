"""OpenAI's request bodies to what is asked.

Unknown fields are ignored, as OpenAI's own API does between versions; a field of a wrong type or out of its range is an
error that names it.

Source: https://platform.openai.com/docs/api-reference (chat, completions, embeddings).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from moltbot_gateway.ask import Ask, EmbedAsk
from moltbot_gateway.content_parts import ContentPart, read_parts
from moltbot_gateway.json_body import MeshFields, ModelId, PersonFields, decode, mesh_options, refused
from moltbot_gateway.media_check import MediaCheck, MediaLimits, content_of
from moltbot_models.generation import Message, ResponseFormat, Sampling, ToolCall, ToolSpec

if TYPE_CHECKING:
    from moltbot_models.generation import Role

_Short = Annotated[str, Meta(max_length=256)]
_Probability = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Tokens = Annotated[int, Meta(ge=1, le=1_000_000)]
_Grammar = Annotated[str, Meta(min_length=1, max_length=131_072)]
_TemplateOptions = Annotated[
    dict[
        Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]{0,63}$")],
        bool | int | float | Annotated[str, Meta(max_length=1024)] | None,
    ],
    Meta(max_length=16),
]
_StopTexts = Annotated[list[_Short], Meta(max_length=16)]


class _Function(Struct):
    name: _Short
    arguments: str = ""


class _ToolCall(Struct):
    function: _Function
    id: _Short = ""


class _Message(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: _Short | None = None
    tool_calls: Annotated[list[_ToolCall], Meta(max_length=128)] | None = None
    tool_call_id: _Short | None = None


class _FunctionSpec(Struct):
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw(b"{}")
    strict: bool | None = False


class _Tool(Struct):
    function: _FunctionSpec
    type: Literal["function"] = "function"


class _NamedFunction(Struct):
    name: _Short


class _NamedTool(Struct):
    function: _NamedFunction


class _StreamOptions(Struct):
    include_usage: bool = False


class _JsonSchema(Struct):
    name: Annotated[str, Meta(max_length=64)] = ""
    schema: msgspec.Raw = msgspec.Raw(b"{}")


class _ResponseFormat(Struct):
    type: _Short
    json_schema: _JsonSchema | None = None


class _StructuredOutputs(Struct):
    regex: _Grammar | None = None
    grammar: _Grammar | None = None


class _Common(PersonFields):
    model: ModelId = ""
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    max_tokens: _Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Probability | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    min_p: _Probability | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Short | _StopTexts | None = None
    stop_token_ids: Annotated[list[Annotated[int, Meta(ge=0, le=2**31 - 1)]], Meta(max_length=64)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    response_format: _ResponseFormat | None = None
    structured_outputs: _StructuredOutputs | None = None
    n: int | None = 1
    moltbot: MeshFields | None = None


class _Chat(_Common, kw_only=True):
    messages: Annotated[list[_Message], Meta(min_length=1, max_length=4096)]
    max_completion_tokens: _Tokens | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[_Tool], Meta(max_length=128)] | None = None
    tool_choice: _Short | _NamedTool | None = None
    chat_template_kwargs: _TemplateOptions | None = None


class _Completion(_Common, kw_only=True):
    prompt: str | list[str]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = False
    best_of: int | None = None


class _Embeddings(PersonFields, kw_only=True):
    input: str | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=2048)]
    model: ModelId = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    moltbot: MeshFields | None = None


_chat = msgspec.json.Decoder(_Chat)
_completion = msgspec.json.Decoder(_Completion)
_embeddings = msgspec.json.Decoder(_Embeddings)
_SCHEMA_CHARACTERS = 128 << 10
_MEDIA = MediaLimits()
_CHOICES = frozenset({"auto", "none", "required"})


class StreamWish(Struct, frozen=True):
    """How the client wants its answer."""

    stream: bool
    include_usage: bool


def chat(body: bytes, limits: MediaLimits = _MEDIA) -> tuple[Ask, StreamWish]:
    """Read the body of `POST /v1/chat/completions`.

    Args:
        body: JSON.
        limits: Of its images and sounds.

    Raises:
        InvalidArgument: Not JSON, or a field is missing, of a wrong type or out of range; the violation names it.
    """
    request = decode(_chat, body)
    _only_one(request)
    check = MediaCheck(limits)
    messages = tuple(_message(message, index, check) for index, message in enumerate(request.messages))
    tools = tuple(_tool(tool.function, index) for index, tool in enumerate(request.tools or ()))
    choice = request.tool_choice
    if isinstance(choice, str) and choice not in _CHOICES:
        raise refused("tool_choice", f"{choice!r} is not known; use auto, none, required or a function by name")
    ask = Ask(
        request.model,
        messages,
        None,
        tools,
        choice.function.name if isinstance(choice, _NamedTool) else choice or "auto",
        _sampling(request, request.max_completion_tokens, bool(request.logprobs), request.top_logprobs or 0),
        mesh_options(request.moltbot),
        _format(request),
        tuple((request.chat_template_kwargs or {}).items()),
    )
    return ask, _wish(request)


def completion(body: bytes) -> tuple[Ask, StreamWish]:
    """Read the body of `POST /v1/completions`.

    Raises:
        InvalidArgument: As in `chat`.
    """
    request = decode(_completion, body)
    _only_one(request)
    if request.best_of not in (None, 1):
        raise refused("best_of", "only 1 is offered")
    if request.echo:
        raise refused("echo", "is not offered; put the prompt before the answer yourself")
    if isinstance(request.prompt, list):
        if len(request.prompt) != 1:
            raise refused("prompt", "send one prompt a request")
        prompt = request.prompt[0]
    else:
        prompt = request.prompt
    sampling = _sampling(request, None, request.logprobs is not None, request.logprobs or 0)
    ask = Ask(
        request.model,
        (),
        prompt,
        (),
        "none",
        sampling,
        mesh_options(request.moltbot),
        _format(request),
    )
    return ask, _wish(request)


def embeddings(body: bytes) -> tuple[EmbedAsk, bool]:
    """Read the body of `POST /v1/embeddings`.

    Returns:
        What is asked, and whether the vectors are to be sent as base64 of little-endian float32.

    Raises:
        InvalidArgument: As in `chat`.
    """
    request = decode(_embeddings, body)
    inputs = [request.input] if isinstance(request.input, str) else request.input
    texts: list[str] = []
    for index, text in enumerate(inputs):
        if not isinstance(text, str):
            raise refused(f"input[{index}]", "send texts; token ids of another tokenizer mean nothing to this model")
        if not text:
            raise refused(f"input[{index}]", "must not be empty")
        texts.append(text)
    task_type = request.moltbot.task_type if request.moltbot else ""
    return EmbedAsk(request.model, tuple(texts), request.dimensions, task_type), request.encoding_format == "base64"


def _only_one(request: _Common) -> None:
    if request.n not in (None, 1):
        raise refused("n", "only 1 is offered; send the request again for another answer")


def _tool(function: _FunctionSpec, index: int) -> ToolSpec:
    try:
        parameters = bytes(function.parameters).decode()
    except UnicodeDecodeError:
        raise refused(f"tools[{index}].function.parameters", "not UTF-8") from None
    return ToolSpec(function.name, function.description or "", parameters, bool(function.strict))


def _format(request: _Common) -> ResponseFormat | None:
    wanted, others = request.response_format, request.structured_outputs
    if others is not None and (others.regex or others.grammar):
        if wanted is not None and wanted.type != "text":
            raise refused("structured_outputs", "goes without response_format; send one of them")
        return (
            ResponseFormat("regex", others.regex) if others.regex else ResponseFormat("grammar", others.grammar or "")
        )
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return ResponseFormat("json_object")
    if wanted.type != "json_schema":
        raise refused("response_format.type", f"{wanted.type!r} is not known; use text, json_object or json_schema")
    if wanted.json_schema is None:
        raise refused("response_format.json_schema", "is missing; it holds name and schema")
    try:
        schema = bytes(wanted.json_schema.schema).decode()
    except UnicodeDecodeError:
        raise refused("response_format.json_schema.schema", "not UTF-8") from None
    if not schema.startswith("{") or len(schema) > _SCHEMA_CHARACTERS:
        raise refused("response_format.json_schema.schema", "must be an object of at most 128 KiB")
    return ResponseFormat("json_schema", schema, wanted.json_schema.name)


def _message(message: _Message, index: int, check: MediaCheck) -> Message:
    role: Role = "tool" if message.role == "function" else message.role
    if message.content is None and role != "assistant":
        raise refused(f"messages[{index}].content", "expected `str`, got `null`")
    calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ())
    content, parts = (
        content_of(read_parts(message.content, role, f"messages[{index}].content", check))
        if isinstance(message.content, list)
        else (message.content or "", ())
    )
    return Message(role, content, message.name or "", calls, message.tool_call_id or "", parts)


def _sampling(request: _Common, max_tokens: int | None, logprobs: bool, top_logprobs: int) -> Sampling:
    stop = request.stop
    return Sampling(
        max_tokens=max_tokens if max_tokens is not None else request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        seed=request.seed,
        stop=tuple(text for text in ((stop,) if isinstance(stop, str) else stop or ()) if text),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        stop_token_ids=tuple(request.stop_token_ids or ()),
        min_tokens=request.min_tokens or 0,
    )


def _wish(request: _Common) -> StreamWish:
    options = request.stream_options
    return StreamWish(bool(request.stream), options is not None and options.include_usage)

"""What is asked of a model and what it answers, free of any protocol.

The gateway builds these from OpenAI JSON or typed gRPC; an upstream protocol (`moltbot_models.providers`) or the
text engine (`moltbot_models.engine`) consumes them. Standard library only: the engine also runs inside Triton's
Python backend, where nothing of ours but `moltbot_models` is importable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled"]
FormatKind = Literal["json_object", "json_schema", "regex", "grammar"]
TemplateValue = bool | int | float | str | None
Role = Literal["system", "developer", "user", "assistant", "tool"]
MediaKind = Literal["image", "audio"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model asks for."""

    id: str
    name: str
    arguments: str
    """The arguments as the model wrote them: JSON text, not yet validated."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that the model may ask for."""

    name: str
    description: str = ""
    parameters: str = "{}"
    """JSON Schema of the arguments, as JSON text."""
    strict: bool = False
    """Whether a call must keep to the schema where the model is free to call. A call that `tool_choice` demands keeps
    to it in any case. Upstreams of the OpenAI protocol are told, and do what they do."""
    mesh: bool = False
    """Whether the mesh runs it. Our engine keeps calls to its schema where that refuses and ends nothing; upstreams are
    not told, for some refuse a strict schema that says more than they know."""

    @property
    def kept(self) -> bool:
        """Whether our engine keeps calls to the schema."""
        return self.strict or self.mesh


@dataclass(frozen=True, slots=True)
class Media:
    """An image or a sound that stands in a message."""

    kind: MediaKind
    data: bytes = field(repr=False)
    """The encoded file: PNG, JPEG, WebP; WAV, MP3."""
    media_type: str
    """Its type as MIME says it: `image/png`."""
    detail: str = ""
    """`auto`, `low` or `high`, for upstreams of the OpenAI protocol; empty if the client says nothing."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str = ""
    """The text; of a message with `parts`, its texts joined."""
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls the assistant asked for in this message."""
    tool_call_id: str = ""
    """The call that a `tool` message answers."""
    parts: tuple[str | Media, ...] = ()
    """Texts and media in their order; empty if the message is text alone."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `None` means the model's own default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Texts at which generation ends; the text itself is not part of the answer."""
    logprobs: bool = False
    top_logprobs: int = 0
    """How many alternatives to report for each token, 0 to 20."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens at which generation ends, beside the model's own; like those, never text."""
    min_tokens: int = 0
    """Tokens before which the answer does not end by itself."""
    ignore_eos: bool = False
    """Go on past the end token; for benchmarks."""


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What an answer must look like, from its first character to its last."""

    kind: FormatKind
    text: str = ""
    """The JSON Schema, the regular expression (Rust's syntax) or the grammar (Lark's syntax); nothing for
    `json_object`."""
    name: str = ""
    """What the client calls a schema."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request to generate text."""

    model: str
    """The model's name at the upstream."""
    messages: tuple[Message, ...] = ()
    """The conversation; empty when `prompt` is given."""
    prompt: str | None = None
    """Raw text to continue (the completions route); no chat template is applied."""
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = "auto"
    """`auto`, `none`, `required`, or the name of one tool."""
    sampling: Sampling = field(default_factory=Sampling)
    request_id: str = ""
    tenant: str = ""
    """Salts the engine's prefix cache, so that one tenant cannot time another's prompts."""
    traceparent: str = ""
    """W3C trace context to pass on; empty if none."""
    response_format: ResponseFormat | None = None
    """`None` leaves the answer free."""
    template_options: tuple[tuple[str, TemplateValue], ...] = ()
    """What the chat template is told beside the messages, such as `enable_thinking`."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability."""

    token: str
    logprob: float
    token_bytes: bytes
    top: tuple[TokenLogprob, ...] = ()
    """The most likely tokens at this place, most likely first; empty for an alternative itself."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted by the side that ran the model."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens found in a prefix cache."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one answer went, in seconds, by the engine's own clock."""

    queue_s: float = 0.0
    """Until the first of its tokens was computed."""
    prefill_s: float = 0.0
    """From there until its first token was drawn."""
    decode_s: float = 0.0
    """From its first token to its last."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: the first piece carries id and name, the pieces' `arguments` add up."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer. Every stream ends with exactly one delta that has a `finish_reason`."""

    text: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    """On the last delta, where the upstream counts tokens."""
    reasoning: str = ""
    """What the model thinks before it answers; it stands before `text`."""
    timing: Timing | None = field(default=None, compare=False)
    """On the last delta, from the mesh's own engine."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """One request to embed texts."""

    model: str
    inputs: tuple[str, ...]
    dimensions: int | None = None
    request_id: str = ""
    tenant: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """One request to score texts: how well each answers a query, or how likely each class of the model is."""

    model: str
    inputs: tuple[str, ...]
    query: str | None = None
    """What documents are to be ranked for; None asks a classifier."""
    request_id: str = ""
    tenant: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores in the order of the inputs."""

    values: tuple[tuple[float, ...], ...]
    """Shape [inputs, classes]; one column for a query, the greater the better."""
    usage: Usage
    labels: tuple[str, ...] = ()
    """The classes' names, in the order of the columns; none for a query."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors in the order of the inputs."""

    vectors: tuple[tuple[float, ...], ...]
    """Shape [inputs, dimensions]; L2-normalised when the model says so."""
    usage: Usage

"""What a client asks for, whichever protocol it speaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moltbot_gateway.media_notes import media_of
from moltbot_models.generation import Message, ResponseFormat, Sampling, TemplateValue, ToolSpec

if TYPE_CHECKING:
    from moltbot_mesh.call import Principal, TraceContext
    from moltbot_models.generation import MediaKind

ANY_TOOL = "*"


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """What the mesh does beyond passing a request on (`"moltbot": {…}` in a body)."""

    session: str = ""
    """Session whose turns are put before the messages, and to which this turn is added."""
    task_type: str = ""
    """Kind of task for the routing rules; empty lets the router find it."""
    tools: tuple[str, ...] = ()
    """Tools of the mesh that the model may call; the loop then runs in the mesh. `*` means all."""
    mark: bool | None = None
    """Whether the text carries the Unicode mark; `None` means the tenant's setting."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A conversation to answer or a text to continue."""

    model: str = ""
    """Model id; empty or `auto` lets the router choose."""
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    """The client's own tools: their calls are passed through."""
    tool_choice: str = "auto"
    sampling: Sampling = field(default_factory=Sampling)
    mesh: MeshOptions = field(default_factory=MeshOptions)
    response_format: ResponseFormat | None = None
    template_options: tuple[tuple[str, TemplateValue], ...] = ()
    """What the chat template is told besides, such as `enable_thinking`."""

    def prompt_bytes(self) -> int:
        """Size of the text sent to the model."""
        if self.prompt is not None:
            return len(self.prompt)
        return sum(len(message.content) for message in self.messages)

    def modalities(self) -> tuple[MediaKind, ...]:
        """What stands in the conversation beside text."""
        return tuple(sorted({media.kind for media in media_of(self.messages)}))

    def last_user_text(self) -> str:
        """What the person said last; the prompt if there are no messages."""
        if self.prompt is not None:
            return self.prompt
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")


@dataclass(frozen=True, slots=True)
class EmbedAsk:
    """Texts to embed."""

    model: str
    inputs: tuple[str, ...]
    dimensions: int | None = None
    task_type: str = ""


@dataclass(frozen=True, slots=True)
class ScoreAsk:
    """Texts to rank for a query, or to classify."""

    model: str
    inputs: tuple[str, ...]
    query: str | None = None
    """None asks for classes."""
    task_type: str = ""

    def prompt_bytes(self) -> int:
        """Size of what the model reads: the query stands before each document."""
        return sum(len(text) for text in self.inputs) + len(self.query or "") * len(self.inputs)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and by which request."""

    principal: Principal
    trace: TraceContext
    request_id: str
    action: str
    """`POST /v1/chat/completions` or the gRPC method."""
    peer: str = ""
    """Address, without port."""
    deadline_monotonic_s: float | None = None

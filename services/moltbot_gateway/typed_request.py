"""The typed API's requests to what is asked: `openai_request`'s counterpart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moltbot.gateway.v1 import gateway_pb2 as pb

from moltbot_gateway.ask import Ask, MeshOptions
from moltbot_gateway.json_body import refused
from moltbot_gateway.media_check import MediaCheck, content_of
from moltbot_models.generation import Message, ResponseFormat, Sampling, ToolCall, ToolSpec

if TYPE_CHECKING:
    from google.protobuf.message import Message as ProtoMessage

    from moltbot_gateway.media_check import MediaLimits
    from moltbot_models.generation import Media, Role

_ROLES: dict[int, Role] = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_DEVELOPER: "developer",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}


def chat(request: pb.ChatRequest, limits: MediaLimits) -> Ask:
    """What a conversation asks.

    Args:
        request: Within the limits of its proto.
        limits: Of its images and sounds.

    Raises:
        InvalidArgument: A part cannot be taken; the violation names it.
    """
    check = MediaCheck(limits)
    messages = tuple(_message(message, index, check) for index, message in enumerate(request.messages))
    tools = tuple(ToolSpec(tool.name, tool.description, tool.parameters or "{}", tool.strict) for tool in request.tools)
    choice = request.tool_choice or "auto"
    return Ask(
        request.model,
        messages,
        None,
        tools,
        choice,
        _sampling(request.sampling),
        _mesh(request.mesh),
        _format(request.response_format),
        (("enable_thinking", request.enable_thinking),) if request.HasField("enable_thinking") else (),
    )


def completion(request: pb.CompleteRequest) -> Ask:
    """What a text to continue asks."""
    wanted = _format(request.response_format)
    return Ask(request.model, (), request.prompt, (), "none", _sampling(request.sampling), _mesh(request.mesh), wanted)


def end_user(request: ProtoMessage) -> str:
    """Whom a request is about, before anything else of it is read; empty if it does not say."""
    match request:
        case pb.StreamChatRequest():
            return request.chat.mesh.end_user
        case pb.StreamCompleteRequest():
            return request.complete.mesh.end_user
        case pb.ChatRequest() | pb.CompleteRequest() | pb.EmbedRequest() | pb.RerankRequest() | pb.ClassifyRequest():
            return request.mesh.end_user
        case _:
            return ""


def _message(message: pb.Message, index: int, check: MediaCheck) -> Message:
    role, content, parts = _ROLES[message.role], message.content, ()
    if message.parts:
        at = f"messages[{index}].parts"
        if content:
            raise refused(at, "stand in the place of content; send one of them")
        content, parts = content_of(
            tuple(_part(part, role, f"{at}[{place}]", check) for place, part in enumerate(message.parts))
        )
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls)
    return Message(role, content, message.name, calls, message.tool_call_id, parts)


def _part(part: pb.Part, role: Role, at: str, check: MediaCheck) -> str | Media:
    match part.WhichOneof("kind"):
        case "text":
            return part.text
        case "image":
            check.admit("image", role, at)
            return check.take("image", part.image.data, part.image.media_type, part.image.detail, f"{at}.image")
        case "audio":
            check.admit("audio", role, at)
            return check.take("audio", part.audio.data, part.audio.media_type, "", f"{at}.audio")
        case _:
            raise refused(at, "is empty; it holds text, image or audio")


def _format(wanted: pb.ResponseFormat) -> ResponseFormat | None:
    kind = wanted.WhichOneof("kind")
    if kind is None:
        return None
    return ResponseFormat(kind) if kind == "json_object" else ResponseFormat(kind, getattr(wanted, kind))


def _sampling(sampling: pb.Sampling) -> Sampling:
    def given(name: str) -> Any:
        return getattr(sampling, name) if sampling.HasField(name) else None  # type: ignore[arg-type]

    return Sampling(
        given("max_tokens"),
        given("temperature"),
        given("top_p"),
        given("top_k"),
        given("min_p"),
        sampling.frequency_penalty,
        sampling.presence_penalty,
        given("seed"),
        tuple(sampling.stop),
        sampling.HasField("top_logprobs"),
        sampling.top_logprobs,
        tuple(sampling.stop_token_ids),
        sampling.min_tokens,
    )


def _mesh(mesh: pb.MeshOptions) -> MeshOptions:
    mark = mesh.mark if mesh.HasField("mark") else None
    return MeshOptions(mesh.session, mesh.task_type, tuple(mesh.tools), mark)

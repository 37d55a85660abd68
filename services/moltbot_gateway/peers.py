"""The services that a request needs, by their generated stubs: router, context, tool, watermark."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from moltbot.context.v1 import context_pb2, context_pb2_grpc
from moltbot.router.v1 import router_pb2, router_pb2_grpc
from moltbot.tool.v1 import tool_pb2, tool_pb2_grpc
from moltbot.watermark.v1 import watermark_pb2, watermark_pb2_grpc

from moltbot_gateway.exchange import Routing
from moltbot_gateway.media_notes import remembered
from moltbot_gateway.stream_mark import StreamMark
from moltbot_mesh.errors import NotFound
from moltbot_mesh.telemetry import Stopwatch
from moltbot_mesh.uuid7 import uuid7, uuid_text
from moltbot_models.generation import Message, ToolCall, ToolSpec
from moltbot_models.manifest_wire import TASK_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import grpc.aio

    from moltbot_gateway.ask import Ask, EmbedAsk, ScoreAsk
    from moltbot_gateway.exchange import Exchange
    from moltbot_models.generation import Role
    from moltbot_models.manifest import Task

_EXCERPT_BYTES = 512
_INSTRUCTIONS = frozenset({"system", "developer"})


class Peers:
    """The other services.

    Args:
        channel: Opens the channel to a service.
    """

    def __init__(self, channel: Callable[[str], grpc.aio.Channel]) -> None:
        self.router = router_pb2_grpc.RouterServiceStub(channel("router"))
        self.watermark = watermark_pb2_grpc.WatermarkServiceStub(channel("watermark"))
        self._context = context_pb2_grpc.ContextServiceStub(channel("context"))
        self._tool = tool_pb2_grpc.ToolServiceStub(channel("tool"))

    async def route(self, exchange: Exchange, ask: Ask) -> tuple[str, ...]:
        """The models that may answer, best first."""
        excerpt = ask.last_user_text()[:_EXCERPT_BYTES].encode()[:_EXCERPT_BYTES].decode(errors="ignore")
        return await self._route(
            exchange,
            router_pb2.RouteRequest(
                tenant=exchange.tenant,
                model=ask.model,
                task=TASK_NUMBERS["text-generation"],
                task_type=ask.mesh.task_type,
                prompt_bytes=ask.prompt_bytes(),
                max_tokens=ask.sampling.max_tokens or 0,
                has_tools=bool(ask.tools or ask.mesh.tools),
                message_count=len(ask.messages),
                excerpt=excerpt,
                modalities=ask.modalities(),
            ),
        )

    async def route_encoder(
        self, exchange: Exchange, ask: EmbedAsk | ScoreAsk, task: Task, size_bytes: int
    ) -> tuple[str, ...]:
        """The models that may embed, rank or classify, best first."""
        return await self._route(
            exchange,
            router_pb2.RouteRequest(
                tenant=exchange.tenant,
                model=ask.model,
                task=TASK_NUMBERS[task],
                task_type=ask.task_type,
                prompt_bytes=size_bytes,
            ),
        )

    async def _route(self, exchange: Exchange, request: router_pb2.RouteRequest) -> tuple[str, ...]:
        watch = Stopwatch()
        answer = await self.router.Route(request)
        exchange.task_type, exchange.rule = answer.task_type, answer.rule
        candidates = tuple(candidate.model for candidate in answer.candidates)
        exchange.routing = Routing(candidates, watch.us())
        return candidates

    async def assemble(self, exchange: Exchange, ask: Ask, budget_tokens: int) -> tuple[Message, ...]:
        """The session's turns that fit, then the new messages."""
        request = context_pb2.AssemblePromptRequest(
            session=ask.mesh.session,
            tenant=exchange.tenant,
            messages=[_stored(message) for message in ask.messages],
            token_budget=budget_tokens,
        )
        answer = await self._context.AssemblePrompt(request)
        found = [_message(message) for message in answer.messages]
        # The new messages end the prompt, instructions apart, which carry no media; the session has only their text.
        new = [message for message in ask.messages if message.role not in _INSTRUCTIONS]
        return (*found[: len(found) - len(new)], *new)

    async def append_turn(self, exchange: Exchange, messages: Sequence[Message]) -> None:
        """Add a turn to the exchange's session; durable when it returns."""
        turn = context_pb2.Turn(
            turn_id=uuid_text(uuid7()),
            messages=[_stored(message) for message in messages],
            request_id=exchange.caller.request_id,
            model=exchange.model,
        )
        await self._context.AppendTurn(
            context_pb2.AppendTurnRequest(session=exchange.session, tenant=exchange.tenant, turn=turn)
        )

    async def tools(self, tenant: str) -> tuple[ToolSpec, ...]:
        """The tools of the mesh that the tenant may use."""
        found: list[ToolSpec] = []
        token = ""
        while True:
            page = await self._tool.ListTools(
                tool_pb2.ListToolsRequest(tenant=tenant, page_size=1000, page_token=token)
            )
            found.extend(ToolSpec(tool.name, tool.description, tool.parameters, mesh=True) for tool in page.tools)
            token = page.next_page_token
            if not token:
                return tuple(found)

    async def call_tool(self, exchange: Exchange, call: ToolCall) -> tuple[str, bool]:
        """Run a tool.

        Returns:
            The text for the model, and whether the tool failed.
        """
        answer = await self._tool.CallTool(
            tool_pb2.CallToolRequest(
                name=call.name,
                arguments=call.arguments,
                tenant=exchange.tenant,
                idempotency_key=f"{exchange.caller.request_id}/{call.id}"[:128],
            ),
            timeout=120.0,
        )
        return answer.content, answer.failed

    async def open_mark(self, exchange: Exchange) -> StreamMark:
        """Reserve a mark for the exchange's answer and open its stream. A tenant's first mark issues its key."""
        request = watermark_pb2.ReserveMarkRequest(tenant=exchange.tenant, request_id=exchange.caller.request_id)
        try:
            mark = await self.watermark.ReserveMark(request)
        except NotFound:
            await self.watermark.IssueKey(watermark_pb2.IssueKeyRequest(tenant=exchange.tenant))
            mark = await self.watermark.ReserveMark(request)
        exchange.mark_id, exchange.mark_epoch = mark.mark_id, mark.epoch
        return StreamMark(self.watermark, exchange.tenant, mark.mark_id, mark.epoch)


def _stored(message: Message) -> context_pb2.StoredMessage:
    return context_pb2.StoredMessage(
        role=message.role,
        content=remembered(message),
        name=message.name,
        tool_calls=[
            context_pb2.StoredToolCall(id=call.id, name=call.name, arguments=call.arguments)
            for call in message.tool_calls
        ],
        tool_call_id=message.tool_call_id,
    )


def _message(stored: context_pb2.StoredMessage) -> Message:
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in stored.tool_calls)
    return Message(cast("Role", stored.role), stored.content, stored.name, calls, stored.tool_call_id)

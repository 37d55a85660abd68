"""ContextService: wire to core and back."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp
from moltbot.context.v1 import context_pb2 as pb
from moltbot.context.v1 import context_pb2_grpc

from moltbot_context.prompt import assemble
from moltbot_context.turns import Session, StoredCall, StoredMessage, Turn
from moltbot_mesh.call import acting_tenant
from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.paging import DEFAULT_PAGE_SIZE, offset_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moltbot_context.adapters.sqlite_sessions import SqliteSessions
    from moltbot_context.settings import ContextSettings

_DEFAULT_BUDGET_TOKENS = 3000


class ContextServicer(context_pb2_grpc.ContextServiceServicer):
    """See `protos/moltbot/context/v1/context.proto`."""

    def __init__(self, settings: ContextSettings, sessions: SqliteSessions) -> None:
        self._settings = settings
        self._sessions = sessions

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Any) -> pb.CreateSessionResponse:  # noqa: ARG002, N802
        """Create a session."""
        name = request.session or f"s-{secrets.token_hex(8)}"
        session = await self._sessions.create(_tenant(request.tenant), name, dict(request.labels))
        return pb.CreateSessionResponse(session=_shown(session))

    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.GetSessionResponse:  # noqa: ARG002, N802
        """Return a session."""
        session = await self._sessions.get(_tenant(request.tenant), request.session)
        return pb.GetSessionResponse(session=_shown(session))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:  # noqa: ARG002, N802
        """List sessions."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        offset = offset_of(request.page_token)
        found = await self._sessions.list(_tenant(request.tenant), size + 1, offset)
        token = str(offset + size) if len(found) > size else ""
        return pb.ListSessionsResponse(sessions=[_shown(s) for s in found[:size]], next_page_token=token)

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Any) -> pb.DeleteSessionResponse:  # noqa: ARG002, N802
        """Delete a session."""
        deleted = await self._sessions.delete(_tenant(request.tenant), request.session)
        return pb.DeleteSessionResponse(deleted_turns=deleted)

    async def AppendTurn(self, request: pb.AppendTurnRequest, context: Any) -> pb.AppendTurnResponse:  # noqa: ARG002, N802
        """Add a turn."""
        if request.turn.ByteSize() > self._settings.max_turn_bytes:
            raise InvalidArgument(
                f"turn: {request.turn.ByteSize()} bytes; at most {self._settings.max_turn_bytes} are kept",
                reason="REQUEST_TOO_LARGE",
            )
        turn = Turn(
            request.turn.turn_id,
            tuple(_message(message) for message in request.turn.messages),
            request.turn.request_id,
            request.turn.model,
        )
        stored = await self._sessions.append(_tenant(request.tenant), request.session, turn)
        return pb.AppendTurnResponse(turn=_turn(stored))

    async def ListTurns(self, request: pb.ListTurnsRequest, context: Any) -> pb.ListTurnsResponse:  # noqa: ARG002, N802
        """List turns."""
        tenant = _tenant(request.tenant)
        await self._sessions.get(tenant, request.session)
        size = request.page_size or DEFAULT_PAGE_SIZE
        offset = offset_of(request.page_token)
        found = await self._sessions.turns(tenant, request.session, size + 1, offset)
        token = str(offset + size) if len(found) > size else ""
        return pb.ListTurnsResponse(turns=[_turn(turn) for turn in found[:size]], next_page_token=token)

    async def AssemblePrompt(self, request: pb.AssemblePromptRequest, context: Any) -> pb.AssemblePromptResponse:  # noqa: ARG002, N802
        """Put a prompt together."""
        tenant = _tenant(request.tenant)
        turns = await self._sessions.newest_turns(tenant, request.session, self._settings.max_turns_read)
        messages = [_message(message) for message in request.messages]
        prompt = assemble(turns, messages, request.token_budget or _DEFAULT_BUDGET_TOKENS)
        return pb.AssemblePromptResponse(
            messages=_stored(prompt.messages),
            turns_used=prompt.turns_used,
            turns_dropped=prompt.turns_dropped,
            token_estimate=prompt.token_estimate,
        )


def _tenant(asked: str) -> str:
    tenant = acting_tenant(asked)
    if not tenant:
        raise InvalidArgument("tenant: must be set by a service that acts for nobody's request")
    return tenant


def _time(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp


def _shown(session: Session) -> pb.Session:
    return pb.Session(
        name=session.name,
        tenant=session.tenant,
        create_time=_time(session.create_time_s),
        update_time=_time(session.update_time_s),
        turn_count=session.turn_count,
        labels=session.labels,
    )


def _message(message: pb.StoredMessage) -> StoredMessage:
    calls = tuple(StoredCall(call.id, call.name, call.arguments) for call in message.tool_calls)
    return StoredMessage(message.role, message.content, message.name, calls, message.tool_call_id)


def _stored(messages: Iterable[StoredMessage]) -> list[pb.StoredMessage]:
    return [
        pb.StoredMessage(
            role=message.role,
            content=message.content,
            name=message.name,
            tool_calls=[pb.StoredToolCall(id=c.id, name=c.name, arguments=c.arguments) for c in message.tool_calls],
            tool_call_id=message.tool_call_id,
        )
        for message in messages
    ]


def _turn(turn: Turn) -> pb.Turn:
    return pb.Turn(
        turn_id=turn.turn_id,
        sequence=turn.sequence,
        messages=_stored(turn.messages),
        request_id=turn.request_id,
        model=turn.model,
        create_time=_time(turn.create_time_s),
    )

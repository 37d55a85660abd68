"""PrivacyService: wire to core and back."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp
from moltbot.audit.v1 import privacy_pb2 as pb
from moltbot.audit.v1 import privacy_pb2_grpc

from moltbot_mesh.call import current_call
from moltbot_mesh.errors import InvalidArgument, MoltbotError, Unimplemented
from moltbot_mesh.paging import DEFAULT_PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moltbot_audit.holds import Hold
    from moltbot_audit.privacy import Privacy
    from moltbot_mesh.threads import Threads

_OFF = "no bodies are kept: set `audit.bodies: encrypted`"


class PrivacyServicer(privacy_pb2_grpc.PrivacyServiceServicer):
    """See `protos/moltbot/audit/v1/privacy.proto`.

    Args:
        privacy: The bodies and holds.
        keeps: Whether bodies are kept.
        log_read: Logs a read of bodies: the method, what was read, and why it was refused; the answer waits for it.
        log_act: Logs an act, before it happens: what, on what, and facts of it.
        threads: Run what blocks.
    """

    def __init__(
        self,
        privacy: Privacy,
        log_read: Callable[[str, str, str], Awaitable[object]],
        log_act: Callable[[str, str, dict[str, str]], Awaitable[object]],
        threads: Threads,
        *,
        keeps: bool,
    ) -> None:
        self._privacy, self._keeps = privacy, keeps
        self._log_read, self._log_act = log_read, log_act
        self._in_thread = threads.run

    async def GetBodyKey(self, request: pb.GetBodyKeyRequest, context: Any) -> pb.GetBodyKeyResponse:  # noqa: ARG002, N802
        """Say what bodies are sealed to."""
        return pb.GetBodyKeyResponse(public_key=self._privacy.public_key if self._keeps else b"")

    async def PutBodies(self, request: pb.PutBodiesRequest, context: Any) -> pb.PutBodiesResponse:  # noqa: ARG002, N802
        """Keep bodies."""
        if not self._keeps:
            raise Unimplemented(_OFF)
        return pb.PutBodiesResponse(kept=await self._in_thread(self._privacy.keep, request.bodies))

    async def GetBody(self, request: pb.GetBodyRequest, context: Any) -> pb.GetBodyResponse:  # noqa: ARG002, N802
        """Show bodies."""
        try:
            event_id = uuid.UUID(request.event_id).bytes
        except ValueError:
            raise InvalidArgument(f"event_id: {request.event_id!r} is no UUID") from None
        try:
            body = await self._in_thread(self._privacy.body, event_id)
        except MoltbotError as error:
            await self._log_read("GetBody", request.event_id, error.reason)
            raise
        await self._log_read("GetBody", request.event_id, "")
        return pb.GetBodyResponse(body=body)

    async def Shred(self, request: pb.ShredRequest, context: Any) -> pb.ShredResponse:  # noqa: ARG002, N802
        """Destroy bodies."""
        what = request.WhichOneof("what")
        if what == "subject":
            subject = request.subject
            await self._log_act("shred", self._privacy.pseudonym(subject.tenant, subject.name), {"why": request.reason})
            gone = await self._in_thread(self._privacy.shred_subject, subject.tenant, subject.name)
        elif what == "trace_id":
            try:
                trace_id = bytes.fromhex(request.trace_id)
            except ValueError:
                raise InvalidArgument("trace_id: 32 hex digits are asked for") from None
            await self._log_act("shred", f"trace:{request.trace_id}", {"why": request.reason})
            gone = await self._in_thread(self._privacy.shred_trace, trace_id)
        else:
            raise InvalidArgument("what: name subject or trace_id")
        return pb.ShredResponse(events=gone)

    async def PlaceHold(self, request: pb.PlaceHoldRequest, context: Any) -> pb.PlaceHoldResponse:  # noqa: ARG002, N802
        """Place a hold."""
        call = current_call()
        by = call.principal.subject if call else "audit"
        await self._log_act("place hold", self._named(request.hold), {"why": request.hold.reason})
        return pb.PlaceHoldResponse(hold=_shown(await self._in_thread(self._privacy.place_hold, request.hold, by)))

    async def ReleaseHold(self, request: pb.ReleaseHoldRequest, context: Any) -> pb.ReleaseHoldResponse:  # noqa: ARG002, N802
        """End a hold."""
        await self._log_act("release hold", f"hold:{request.hold_id}", {"why": request.reason})
        return pb.ReleaseHoldResponse(hold=_shown(await self._in_thread(self._privacy.release_hold, request.hold_id)))

    async def ListHolds(self, request: pb.ListHoldsRequest, context: Any) -> pb.ListHoldsResponse:  # noqa: ARG002, N802
        """List the holds."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        found = await self._in_thread(self._privacy.holds, request.page_token, size + 1)
        token = found[size - 1].hold_id if len(found) > size else ""
        return pb.ListHoldsResponse(holds=[_shown(hold) for hold in found[:size]], next_page_token=token)

    def _named(self, hold: pb.Hold) -> str:
        if hold.trace_id:
            return f"trace:{hold.trace_id}"
        if hold.data_subject:
            return self._privacy.pseudonym(hold.tenant, hold.data_subject)
        return f"tenant:{hold.tenant}"


def _shown(hold: Hold) -> pb.Hold:
    shown = pb.Hold(
        hold_id=hold.hold_id,
        tenant=hold.tenant,
        data_subject=hold.data_subject,
        trace_id=hold.trace_id,
        reason=hold.reason,
        placed_by=hold.placed_by,
        place_time=_time(hold.place_ns),
    )
    if hold.release_ns:
        shown.release_time.CopyFrom(_time(hold.release_ns))
    return shown


def _time(time_ns: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(time_ns)
    return stamp

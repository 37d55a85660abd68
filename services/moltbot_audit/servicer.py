"""AuditService: wire to core and back."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from google.api.httpbody_pb2 import HttpBody
from moltbot.audit.v1 import audit_pb2 as pb
from moltbot.audit.v1 import audit_pb2_grpc

from moltbot_audit.event import decode
from moltbot_audit.export import bundle, receipt
from moltbot_audit.records import Filter, Logged
from moltbot_audit.verify import verify_steps
from moltbot_mesh.call import acting_tenant, current_call
from moltbot_mesh.errors import InvalidArgument, MoltbotError, NotFound, PermissionDenied
from moltbot_mesh.paging import DEFAULT_PAGE_SIZE, offset_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

    from google.protobuf.timestamp_pb2 import Timestamp

    from moltbot_audit.commit import Answer
    from moltbot_audit.ledger import Ledger
    from moltbot_mesh.threads import Threads

T = TypeVar("T")
_PIPELINE = 64
_END = 1 << 62
_SEQUENCE_DIGITS = 18
"""More than the database's numbers have is no sequence."""


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """See `protos/moltbot/audit/v1/audit.proto`.

    Args:
        ledger: The log.
        log_read: Logs a read of the log: the method, what was read, and why it was refused (empty if it was not). The
            answer waits for it.
        threads: Run the reads; the event loop's own if there are none.
    """

    def __init__(
        self, ledger: Ledger, log_read: Callable[[str, str, str], Awaitable[object]], threads: Threads | None = None
    ) -> None:
        self._ledger = ledger
        self._in_thread = asyncio.to_thread if threads is None else threads.run
        self._log_read = log_read

    async def AppendStream(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.AppendStreamRequest],
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.AppendStreamResponse]:
        """Append batches; up to 64 are under way at a time, acknowledged in order."""
        waiting: asyncio.Queue[tuple[int, asyncio.Future[list[int]]] | None] = asyncio.Queue(_PIPELINE)

        async def receive() -> None:
            try:
                async for request in request_iterator:
                    await waiting.put((request.batch_id, self._submit(request)))
            finally:
                await waiting.put(None)

        receiving = asyncio.create_task(receive(), name="audit-receive")
        try:
            while (item := await waiting.get()) is not None:
                batch_id, appended = item
                yield pb.AppendStreamResponse(batch_id=batch_id, sequences=await appended)
            await receiving
        finally:
            receiving.cancel()
            while not receiving.done() or not waiting.empty():
                # Room for what `receive` still puts; nobody asks for these batches any more.
                while not waiting.empty():
                    left = waiting.get_nowait()
                    if left is not None:
                        left[1].cancel()
                await asyncio.wait([receiving], timeout=0.01)
            if not receiving.cancelled():
                receiving.exception()

    def _submit(self, request: pb.AppendStreamRequest) -> asyncio.Future[list[int]]:
        loop = asyncio.get_running_loop()
        appended: asyncio.Future[list[int]] = loop.create_future()

        def settle(answer: Answer) -> None:
            if appended.done():
                return
            if isinstance(answer, MoltbotError):
                appended.set_exception(answer)
            else:
                appended.set_result(answer)

        try:
            if not request.events:
                raise InvalidArgument("events: a batch has at least one")
            records = [decode(event) for event in request.events]
        except MoltbotError as error:
            settle(error)
        else:

            def answered(answer: Answer) -> None:
                loop.call_soon_threadsafe(settle, answer)

            self._ledger.submit(records, answered)
        return appended

    async def GetEvent(self, request: pb.GetEventRequest, context: Any) -> pb.GetEventResponse:  # noqa: ARG002, N802
        """Return one event."""
        async with self._recorded("GetEvent", request.event_id):
            return pb.GetEventResponse(event=_shown(await self._find(request.event_id)))

    async def Query(self, request: pb.QueryRequest, context: Any) -> pb.QueryResponse:  # noqa: ARG002, N802
        """Find events."""
        async with self._recorded("Query", f"tenant={request.tenant}"):
            wanted = Filter(
                _only_own(request.tenant),
                request.subject,
                request.model,
                request.request_id,
                request.type,
                request.outcome,
                request.ingress,
                _nanoseconds(request.start_time) if request.HasField("start_time") else 0,
                _nanoseconds(request.end_time) if request.HasField("end_time") else 0,
                request.object,
                request.action,
                request.reason,
                request.service,
                bytes.fromhex(request.trace_id),
                request.http_status_class,
            )
            size = request.page_size or DEFAULT_PAGE_SIZE
            before = offset_of(request.page_token) or _END
            found = await self._in_thread(self._ledger.query, wanted, before, size + 1)
            token = str(found[size - 1].sequence) if len(found) > size else ""
            return pb.QueryResponse(events=[_shown(logged) for logged in found[:size]], next_page_token=token)

    async def GetTrace(self, request: pb.GetTraceRequest, context: Any) -> pb.GetTraceResponse:  # noqa: ARG002, N802
        """Return a trace."""
        async with self._recorded("GetTrace", request.trace_id):
            found = await self._of_trace(self._ledger.trace, request.trace_id)
            return pb.GetTraceResponse(events=[_shown(logged) for logged in found])

    async def GetCheckpoint(  # noqa: N802
        self,
        request: pb.GetCheckpointRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> pb.GetCheckpointResponse:
        """Return the newest checkpoint."""
        note, head = self._ledger.checkpoint()
        return pb.GetCheckpointResponse(checkpoint=note, tree_size=head.size, verifier_key=self._ledger.verifier_key)

    async def GetInclusionProof(  # noqa: N802
        self,
        request: pb.GetInclusionProofRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.GetInclusionProofResponse:
        """Prove that an event is in the log."""
        async with self._recorded("GetInclusionProof", request.event_id):
            logged = await self._find(request.event_id)
            proof = await self._in_thread(self._ledger.inclusion_proof, logged.sequence)
            return pb.GetInclusionProofResponse(
                sequence=proof.sequence,
                tree_size=proof.size,
                hashes=proof.hashes,
                checkpoint=proof.checkpoint,
                record=proof.record,
            )

    async def GetConsistencyProof(  # noqa: N802
        self,
        request: pb.GetConsistencyProofRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.GetConsistencyProofResponse:
        """Prove that the log only grew."""
        second, hashes = await self._in_thread(self._ledger.consistency_proof, request.first, request.second)
        return pb.GetConsistencyProofResponse(second=second, hashes=hashes)

    async def GetReceipt(self, request: pb.GetReceiptRequest, context: Any) -> HttpBody:  # noqa: ARG002, N802
        """Return the receipt of an event."""
        async with self._recorded("GetReceipt", request.audit_id):
            logged = await self._find(request.audit_id)
            data = await self._in_thread(receipt, self._ledger, logged.sequence)
            return HttpBody(content_type="application/json", data=data)

    async def Export(  # noqa: N802
        self,
        request: pb.ExportRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.ExportResponse]:
        """Write a bundle."""
        what = request.WhichOneof("selection") or ""
        target = f"range {request.range.first}-{request.range.end}" if what == "range" else getattr(request, what, "")
        async with self._recorded("Export", target):
            sequences = await self._selected(request, what)
            since = request.since if request.HasField("since") else None
            pieces = bundle(self._ledger, sequences, target if what == "range" else f"{what} {target}", since)
            first = await self._in_thread(next, pieces, None)
        while first is not None:
            yield pb.ExportResponse(data=first)
            first = await self._in_thread(next, pieces, None)

    async def _selected(self, request: pb.ExportRequest, what: str) -> Sequence[int]:
        """The sequences that an export names, those of other tenants left out."""
        if what == "range":
            if _only_own(""):
                raise PermissionDenied("a range holds events of all tenants; it needs a key with the role auditor")
            _, head = self._ledger.checkpoint()
            end = request.range.end or head.size
            if request.range.first >= end:
                raise InvalidArgument(f"range: nothing lies between {request.range.first} and {end}")
            return range(request.range.first, end)
        if what == "event_id":
            return [(await self._find(request.event_id)).sequence]
        if what != "trace_id":
            raise InvalidArgument("selection: name trace_id, range or event_id")
        return await self._of_trace(self._ledger.sequences_of_trace, request.trace_id)

    async def _of_trace(self, find: Callable[[bytes, str], Sequence[T]], trace_id: str) -> Sequence[T]:
        """What is found of a trace, of the events that the caller may see."""
        try:
            wanted = bytes.fromhex(trace_id)
        except ValueError:
            raise InvalidArgument("trace_id: 32 hex digits are asked for") from None
        found = await self._in_thread(find, wanted, _only_own(""))
        if not found:
            raise NotFound(f"no event of trace {trace_id}")
        return found

    async def Verify(  # noqa: N802
        self,
        request: pb.VerifyRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.VerifyResponse]:
        """Check the whole log."""
        steps = verify_steps(self._ledger.directory, self._ledger.verifier_key)
        while (step := await self._in_thread(next, steps, None)) is not None:
            total = max(step.covered, step.records)
            yield pb.VerifyResponse(records=step.records, total=total, done=step.done, problems=step.problems)

    async def _find(self, name: str) -> Logged:
        """The event with an id or a sequence, if the caller may see it."""
        if name.isascii() and name.isdigit() and len(name) <= _SEQUENCE_DIGITS:
            logged = await self._in_thread(self._ledger.at, int(name))
        else:
            try:
                event_id = uuid.UUID(name).bytes
            except ValueError:
                raise InvalidArgument(f"event_id: {name!r} is neither a UUID nor a sequence") from None
            logged = await self._in_thread(self._ledger.get, event_id)
        tenant = _only_own("")
        if tenant and pb.AuditEvent.FromString(logged.payload).tenant != tenant:
            raise NotFound(f"no event is named {name}")
        return logged

    @contextlib.asynccontextmanager
    async def _recorded(self, method: str, target: str) -> AsyncGenerator[None]:
        try:
            yield
        except MoltbotError as error:
            await self._log_read(method, target, error.reason)
            raise
        await self._log_read(method, target, "")


def _nanoseconds(time: Timestamp) -> int:
    """Since the epoch, within what events can have; never 0, which would mean no bound."""
    try:
        return min(max(time.ToNanoseconds(), 1), (1 << 63) - 1)
    except ValueError:
        raise InvalidArgument("start_time, end_time: not a time") from None


def _only_own(asked: str) -> str:
    """The tenant to look at: a key with the role auditor any (empty), everybody else the one it acts for."""
    call = current_call()
    if call is None or "auditor" in call.principal.roles:
        return asked
    tenant = acting_tenant(asked)
    if not tenant and call.principal.kind != "service":
        raise PermissionDenied("this key belongs to no tenant")
    return tenant


def _shown(logged: Logged) -> pb.LoggedEvent:
    event = pb.AuditEvent.FromString(logged.payload)
    return pb.LoggedEvent(sequence=logged.sequence, event=event, record=logged.payload)

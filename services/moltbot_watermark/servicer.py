"""WatermarkService: wire to core and back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from moltbot.watermark.v1 import watermark_pb2 as pb
from moltbot.watermark.v1 import watermark_pb2_grpc

from moltbot_mesh.audit.acts import WATERMARK_KEY
from moltbot_mesh.call import acting_tenant, current_call
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument, NotFound
from moltbot_mesh.paging import page_of
from moltbot_watermark import label as labels
from moltbot_watermark.detect import Layer, TextMatch
from moltbot_watermark.keys import State
from moltbot_watermark.label import Label
from moltbot_watermark.output_embedder import OutputEmbedder
from moltbot_watermark.output_kind import OutputKind
from moltbot_watermark.output_rows import Output
from moltbot_watermark.unicode_mark import MAX_MARK_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moltbot_mesh.audit.acts import Acts
    from moltbot_watermark.detect import Detector, Finding
    from moltbot_watermark.keys import Epoch, Keyring
    from moltbot_watermark.label import Labels
    from moltbot_watermark.lane import Lane
    from moltbot_watermark.outputs import Outputs
    from moltbot_watermark.registry import Registry
    from moltbot_watermark.settings import WatermarkSettings

log = structlog.get_logger("moltbot.watermark")

_STATES = {
    State.ACTIVE: pb.KEY_STATE_ACTIVE,
    State.RETIRED: pb.KEY_STATE_RETIRED,
    State.REVOKED: pb.KEY_STATE_REVOKED,
}
_LAYERS = {Layer.UNICODE: pb.LAYER_UNICODE, Layer.FINGERPRINT: pb.LAYER_FINGERPRINT}
_KINDS = {OutputKind.ANSWER: pb.OUTPUT_KIND_ANSWER, OutputKind.REASONING: pb.OUTPUT_KIND_REASONING}
_MATCHES = {
    TextMatch.UNKNOWN: pb.TEXT_MATCH_UNSPECIFIED,
    TextMatch.EXACT: pb.TEXT_MATCH_EXACT,
    TextMatch.PARTIAL: pb.TEXT_MATCH_PARTIAL,
    TextMatch.DIFFERENT: pb.TEXT_MATCH_DIFFERENT,
}
_CONTEXT_TOKENS = 4
_CANDIDATES = 1024
_MAX_CHUNK_CHARACTERS = 1_048_576


class WatermarkServicer(watermark_pb2_grpc.WatermarkServiceServicer):
    """See `protos/moltbot/watermark/v1/watermark.proto`.

    Args:
        settings: Of the service.
        keyring: Keys of all tenants.
        registry: Marks and outputs.
        outputs: Registers answers.
        detector: Finds marks.
        label_maker: Makes and checks labels.
        writing: Where the database is written.
        reading: Where texts are searched.
        acts: Record what happens to keys, before it does.
    """

    def __init__(
        self,
        *,
        settings: WatermarkSettings,
        keyring: Keyring,
        registry: Registry,
        outputs: Outputs,
        detector: Detector,
        label_maker: Labels,
        writing: Lane,
        reading: Lane,
        acts: Acts,
    ) -> None:
        self._settings = settings
        self._keyring = keyring
        self._registry = registry
        self._outputs = outputs
        self._detector = detector
        self._labels = label_maker
        self._writing = writing
        self._reading = reading
        self._acts = acts

    async def IssueKey(self, request: pb.IssueKeyRequest, context: Any) -> pb.IssueKeyResponse:  # noqa: ARG002, N802
        """Create the tenant's first key."""
        if not self._keyring.epochs(request.tenant):
            await self._acts.before(WATERMARK_KEY, "issue key", f"tenant:{request.tenant}")
        epoch = await self._keyring.issue(request.tenant)
        log.info("watermark key", tenant=epoch.tenant, epoch=epoch.epoch, state=epoch.state.value)
        return pb.IssueKeyResponse(key=_key(epoch))

    async def RotateKey(self, request: pb.RotateKeyRequest, context: Any) -> pb.RotateKeyResponse:  # noqa: ARG002, N802
        """Start a new epoch."""
        await self._acts.before(WATERMARK_KEY, "rotate key", f"tenant:{request.tenant}")
        epoch = await self._keyring.rotate(request.tenant)
        log.info("watermark key rotated", tenant=epoch.tenant, epoch=epoch.epoch)
        return pb.RotateKeyResponse(key=_key(epoch))

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Any) -> pb.RevokeKeyResponse:  # noqa: ARG002, N802
        """End an epoch."""
        target = f"tenant:{request.tenant} epoch:{request.epoch}"
        await self._acts.before(WATERMARK_KEY, "revoke key", target)
        epoch = await self._keyring.revoke(request.tenant, request.epoch)
        log.info("watermark key revoked", tenant=epoch.tenant, epoch=epoch.epoch)
        return pb.RevokeKeyResponse(key=_key(epoch))

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:  # noqa: ARG002, N802
        """List epochs."""
        page, token = page_of(self._keyring.epochs(request.tenant), request.page_size, request.page_token)
        return pb.ListKeysResponse(keys=[_key(epoch) for epoch in page], next_page_token=token)

    async def GetSamplerProfile(  # noqa: N802
        self,
        request: pb.GetSamplerProfileRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.GetSamplerProfileResponse:
        """Say how to mark at sampling."""
        try:
            epoch = self._keyring.active(request.tenant).epoch
        except NotFound as error:
            raise FailedPrecondition(error.message) from None
        profile = self._settings.sampler_profile
        return pb.GetSamplerProfileResponse(
            epoch=epoch,
            profile=profile,
            key=self._keyring.key(request.tenant, epoch, profile),
            context_tokens=_CONTEXT_TOKENS,
            candidates=_CANDIDATES,
        )

    async def ReserveMark(self, request: pb.ReserveMarkRequest, context: Any) -> pb.ReserveMarkResponse:  # noqa: ARG002, N802
        """Reserve a mark id."""
        active = self._keyring.active(request.tenant)
        mark_id, epoch = await self._writing.run(
            self._registry.reserve, request.tenant, active.epoch, request.request_id
        )
        return pb.ReserveMarkResponse(mark_id=mark_id, epoch=epoch)

    async def EmbedStream(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.EmbedStreamRequest],
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        """Mark a text as it streams."""
        embedder: OutputEmbedder | None = None
        async for request in request_iterator:
            if embedder is None:
                embedder = self._embedder(request)
            for name, text in (("text", request.text), ("reasoning", request.reasoning)):
                if len(text) > _MAX_CHUNK_CHARACTERS:
                    raise InvalidArgument(
                        f"{name}: at most {_MAX_CHUNK_CHARACTERS} characters a message; send more messages"
                    )
            # Thoughts come first: they stand before the text of their message.
            reasoning = embedder.think(request.reasoning, ends=request.reasoning_ends or request.finish)
            yield pb.EmbedStreamResponse(reasoning=reasoning, text=embedder.answer(request.text, ends=request.finish))
            if request.finish:
                return

    def _embedder(self, opening: pb.EmbedStreamRequest) -> OutputEmbedder:
        if not opening.tenant or not 1 <= opening.mark_id <= MAX_MARK_ID or opening.epoch < 1:
            raise InvalidArgument("the first message must name tenant, mark_id and epoch, as ReserveMark gave them")
        if not self._keyring.marks(opening.tenant, opening.epoch):
            raise FailedPrecondition(
                f"tenant {opening.tenant!r}: epoch {opening.epoch} was revoked or never issued; reserve another mark"
            )
        key = self._keyring.key(opening.tenant, opening.epoch, "unicode")
        return OutputEmbedder(key, opening.epoch, opening.mark_id)

    async def Detect(self, request: pb.DetectRequest, context: Any) -> pb.DetectResponse:  # noqa: ARG002, N802
        """Say whether the mesh made a text."""
        tenant = _searched(request.tenant)
        detection = await self._reading.run_for(_caller(), self._detector.detect, request.text, tenant)
        if not detection.complete:
            log.warning("detection cut short: the text holds too many damaged frames", characters=len(request.text))
        return pb.DetectResponse(
            verdict=pb.VERDICT_FOUND if detection.findings else pb.VERDICT_INSUFFICIENT_EVIDENCE,
            findings=[_finding(finding) for finding in detection.findings],
        )

    async def RegisterOutput(self, request: pb.RegisterOutputRequest, context: Any) -> pb.RegisterOutputResponse:  # noqa: ARG002, N802
        """Bind an answer to its request."""
        (refused,) = await self._outputs.register([(_output(request), request.text)])
        if refused is not None:
            raise refused
        return pb.RegisterOutputResponse()

    async def BatchRegisterOutputs(  # noqa: N802
        self,
        request: pb.BatchRegisterOutputsRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.BatchRegisterOutputsResponse:
        """Bind answers to their requests."""
        answers = await self._outputs.register([(_output(one), one.text) for one in request.requests])
        refusals = [
            pb.BatchRegisterOutputsResponse.Refusal(index=index, reason=refused.reason, message=refused.message)
            for index, refused in enumerate(answers)
            if refused is not None
        ]
        return pb.BatchRegisterOutputsResponse(refusals=refusals)

    async def BuildLabel(self, request: pb.BuildLabelRequest, context: Any) -> pb.BuildLabelResponse:  # noqa: ARG002, N802
        """Build a label."""
        tenant = acting_tenant(request.tenant)
        if not tenant:
            raise InvalidArgument("tenant: must be set; the label is bound by the tenant's key")
        wanted = Label(
            request.label or "1",
            request.content_producer or self._settings.content_producer,
            request.produce_id,
            content_propagator=request.content_propagator,
            propagate_id=request.propagate_id,
        )
        return await self._reading.run_for(tenant, self._build_label, tenant, wanted, request.text)

    def _build_label(self, tenant: str, wanted: Label, text: str) -> pb.BuildLabelResponse:
        built = self._labels.build(tenant, wanted, text)
        return pb.BuildLabelResponse(
            metadata=labels.metadata(built),
            markdown=labels.markdown(built, text) if text else "",
            explicit_label=labels.EXPLICIT[built.label],
        )

    async def VerifyLabel(self, request: pb.VerifyLabelRequest, context: Any) -> pb.VerifyLabelResponse:  # noqa: ARG002, N802
        """Check a label."""
        tenant = _searched(request.tenant)
        found = await self._reading.run_for(_caller(), self._labels.verify, request.content, tenant)
        return pb.VerifyLabelResponse(
            well_formed=found.well_formed,
            authentic=found.authentic,
            problems=found.problems,
            tenant=found.tenant,
            produce_id=found.produce_id,
        )


def _caller() -> str:
    """Whose call it is."""
    call = current_call()
    return call.principal.tenant if call is not None else ""


def _searched(asked: str) -> str:
    """Whose keys a search may use; empty means all, which only operators and services may ask for."""
    call = current_call()
    if call is not None and call.principal.kind == "key" and "auditor" in call.principal.roles:
        return asked
    return acting_tenant(asked)


def _output(request: pb.RegisterOutputRequest) -> Output:
    return Output(
        request.tenant, request.epoch, request.mark_id, request.request_id, request.audit_id, request.trace_id,
        request.model, time.time(), OutputKind(request.kind) if request.kind else OutputKind.ANSWER,
    )  # fmt: skip


def _key(epoch: Epoch) -> pb.Key:
    return pb.Key(
        tenant=epoch.tenant,
        epoch=epoch.epoch,
        state=_STATES[epoch.state],
        create_time=_time(epoch.create_time_s),
        retire_time=None if epoch.end_time_s is None else _time(epoch.end_time_s),
    )


def _finding(finding: Finding) -> pb.Finding:
    return pb.Finding(
        layer=_LAYERS[finding.layer],
        tenant=finding.tenant,
        epoch=finding.epoch,
        mark_id=finding.mark_id,
        request_id=finding.request_id,
        audit_id=finding.audit_id,
        model=finding.model,
        text_match=_MATCHES[finding.text_match],
        start=finding.start,
        end=finding.end,
        create_time=_time(finding.create_time_s) if finding.create_time_s else None,
        p_value=finding.p_value,
        kind=_KINDS[finding.kind],
    )


def _time(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, cast

import pytest
from moltbot.watermark.v1 import watermark_pb2 as pb
from moltbot.watermark.v1 import watermark_pb2_grpc

from moltbot_audit.module import MODULE as AUDIT
from moltbot_audit.settings import AuditSettings
from moltbot_mesh.errors import FailedPrecondition, InvalidArgument, MoltbotError, NotFound
from moltbot_mesh.keyvalue import MemoryKeyValueStore
from moltbot_mesh.runner import Node, running
from moltbot_mesh.settings import Section
from moltbot_watermark.module import MODULE
from moltbot_watermark.settings import WatermarkSettings
from moltbot_watermark.unicode_mark import strip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TEXT = (
    "The first words of an answer.\n\nAnd a paragraph about the 猫, 👩‍👩‍👧 and cafe\u0301 that goes on for a while.\n"
)


class Root(Section):
    watermark: WatermarkSettings = WatermarkSettings()
    audit: AuditSettings = AuditSettings(segment_bytes=1 << 20)


@contextlib.asynccontextmanager
async def serving(
    data_dir: Path, store: MemoryKeyValueStore
) -> AsyncIterator[watermark_pb2_grpc.WatermarkServiceAsyncStub]:
    node = Node(data_dir, bytes(32), store, (f"unix:{data_dir}/s",))
    modules = {"watermark": MODULE, "audit": AUDIT}  # what happens to keys is in the log, or does not happen
    async with running(modules, list(modules), Root(), node) as process:
        stub = watermark_pb2_grpc.WatermarkServiceStub(process.channel("watermark"))
        yield cast("watermark_pb2_grpc.WatermarkServiceAsyncStub", stub)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[watermark_pb2_grpc.WatermarkServiceAsyncStub]:
    async with serving(tmp_path, MemoryKeyValueStore()) as stub:
        yield stub


async def marked(
    service: watermark_pb2_grpc.WatermarkServiceAsyncStub, mark: pb.ReserveMarkResponse, pieces: list[str]
) -> list[str]:
    call = service.EmbedStream()
    opening = {"tenant": "acme", "mark_id": mark.mark_id, "epoch": mark.epoch}
    answers: list[str] = []
    for number, piece in enumerate(pieces):
        await call.write(pb.EmbedStreamRequest(text=piece, finish=number == len(pieces) - 1, **opening))
        opening = {}
        answers.append((await call.read()).text)
    await call.done_writing()
    assert [answer async for answer in call] == []
    return answers


async def test_an_answer_goes_from_key_to_finding(service: watermark_pb2_grpc.WatermarkServiceAsyncStub) -> None:
    with pytest.raises(NotFound, match="IssueKey"):
        await service.ReserveMark(pb.ReserveMarkRequest(tenant="acme", request_id="r-1"))
    await service.IssueKey(pb.IssueKeyRequest(tenant="acme"))
    mark = await service.ReserveMark(pb.ReserveMarkRequest(tenant="acme", request_id="r-1"))
    assert mark == await service.ReserveMark(pb.ReserveMarkRequest(tenant="acme", request_id="r-1"))
    answers = await marked(service, mark, [TEXT[at : at + 7] for at in range(0, len(TEXT), 7)])
    assert [strip(answer) for answer in answers] != answers
    assert strip("".join(answers)) == TEXT
    await service.RegisterOutput(
        pb.RegisterOutputRequest(
            tenant="acme",
            request_id="r-1",
            audit_id="a-1",
            model="tiny",
            mark_id=mark.mark_id,
            epoch=mark.epoch,
            text=TEXT,
        )
    )
    detected = await service.Detect(pb.DetectRequest(text="".join(answers)))
    assert detected.verdict == pb.VERDICT_FOUND
    (finding,) = detected.findings
    assert (finding.layer, finding.tenant, finding.request_id) == (pb.LAYER_UNICODE, "acme", "r-1")
    assert (finding.audit_id, finding.model, finding.text_match) == ("a-1", "tiny", pb.TEXT_MATCH_EXACT)
    other = await service.Detect(pb.DetectRequest(text="".join(answers), tenant="other"))
    assert other.verdict == pb.VERDICT_INSUFFICIENT_EVIDENCE


async def test_a_thought_goes_beside_its_answer_from_stream_to_finding(
    service: watermark_pb2_grpc.WatermarkServiceAsyncStub,
) -> None:
    thought = "The user wants two paragraphs.\n\nI write them now, and mind the cat."
    await service.IssueKey(pb.IssueKeyRequest(tenant="acme"))
    mark = await service.ReserveMark(pb.ReserveMarkRequest(tenant="acme", request_id="r-1"))
    call = service.EmbedStream()
    await call.write(
        pb.EmbedStreamRequest(tenant="acme", mark_id=mark.mark_id, epoch=mark.epoch, reasoning=thought[:40])
    )
    thinking = await call.read()
    await call.write(pb.EmbedStreamRequest(reasoning=thought[40:], reasoning_ends=True, text=TEXT, finish=True))
    ended = await call.read()
    assert (thinking.text, strip(thinking.reasoning)) == ("", thought[:40])
    assert strip(ended.text) == TEXT
    marked_thought = thinking.reasoning + ended.reasoning
    assert strip(marked_thought) == thought
    for kind, text in ((pb.OUTPUT_KIND_REASONING, thought), (pb.OUTPUT_KIND_UNSPECIFIED, TEXT)):
        output = pb.RegisterOutputRequest(tenant="acme", request_id="r-1", audit_id="a-1", model="tiny", text=text)
        output.mark_id, output.epoch, output.kind = mark.mark_id, mark.epoch, kind
        await service.RegisterOutput(output)
    for text, layer, kind in (
        (marked_thought, pb.LAYER_UNICODE, pb.OUTPUT_KIND_REASONING),
        (thought, pb.LAYER_FINGERPRINT, pb.OUTPUT_KIND_REASONING),
        (ended.text, pb.LAYER_UNICODE, pb.OUTPUT_KIND_ANSWER),
    ):
        (finding,) = (await service.Detect(pb.DetectRequest(text=text, tenant="acme"))).findings
        assert (finding.layer, finding.kind, finding.audit_id) == (layer, kind, "a-1")
        assert (finding.request_id, finding.model, finding.text_match) == ("r-1", "tiny", pb.TEXT_MATCH_EXACT)


async def test_a_kind_of_output_that_is_unknown_is_refused(
    service: watermark_pb2_grpc.WatermarkServiceAsyncStub,
) -> None:
    with pytest.raises(InvalidArgument, match="kind"):
        await service.RegisterOutput(pb.RegisterOutputRequest(tenant="acme", text=TEXT, kind=9))  # type: ignore[arg-type]


async def test_a_stream_must_open_with_its_mark(service: watermark_pb2_grpc.WatermarkServiceAsyncStub) -> None:
    with pytest.raises(InvalidArgument, match="first message"):
        await marked(service, pb.ReserveMarkResponse(), ["text"])
    with pytest.raises(FailedPrecondition, match="never issued"):
        await marked(service, pb.ReserveMarkResponse(mark_id=1, epoch=1), ["text"])


async def test_epochs_are_rotated_revoked_and_listed(service: watermark_pb2_grpc.WatermarkServiceAsyncStub) -> None:
    await service.IssueKey(pb.IssueKeyRequest(tenant="acme"))
    await service.RotateKey(pb.RotateKeyRequest(tenant="acme"))
    revoked = await service.RevokeKey(pb.RevokeKeyRequest(tenant="acme", epoch=2))
    assert revoked.key.state == pb.KEY_STATE_REVOKED
    first = await service.ListKeys(pb.ListKeysRequest(page_size=1))
    second = await service.ListKeys(pb.ListKeysRequest(page_size=1, page_token=first.next_page_token))
    assert [key.epoch for key in (*first.keys, *second.keys)] == [1, 2]
    assert first.keys[0].state == pb.KEY_STATE_RETIRED
    assert first.keys[0].HasField("retire_time")
    assert second.next_page_token == ""
    with pytest.raises(FailedPrecondition, match="rotate"):
        await service.ReserveMark(pb.ReserveMarkRequest(tenant="acme", request_id="r-1"))


async def test_the_sampler_profile_follows_the_epoch(service: watermark_pb2_grpc.WatermarkServiceAsyncStub) -> None:
    with pytest.raises(FailedPrecondition):
        await service.GetSamplerProfile(pb.GetSamplerProfileRequest(tenant="acme"))
    await service.IssueKey(pb.IssueKeyRequest(tenant="acme"))
    first = await service.GetSamplerProfile(pb.GetSamplerProfileRequest(tenant="acme"))
    assert (first.epoch, first.profile, first.context_tokens, first.candidates) == (1, "trace24", 4, 1024)
    assert len(first.key) == 32
    await service.RotateKey(pb.RotateKeyRequest(tenant="acme"))
    second = await service.GetSamplerProfile(pb.GetSamplerProfileRequest(tenant="acme"))
    assert (second.epoch, second.key != first.key) == (2, True)


async def test_a_label_is_built_and_verified(service: watermark_pb2_grpc.WatermarkServiceAsyncStub) -> None:
    await service.IssueKey(pb.IssueKeyRequest(tenant="acme"))
    built = await service.BuildLabel(pb.BuildLabelRequest(tenant="acme", produce_id="r-1", text=TEXT))
    assert json.loads(built.metadata)["AIGC"]["ContentProducer"] == "moltbot"
    assert built.explicit_label in built.markdown
    found = await service.VerifyLabel(pb.VerifyLabelRequest(content=built.markdown))
    assert (found.well_formed, found.authentic, found.tenant, found.produce_id) == (True, True, "acme", "r-1")
    with pytest.raises(InvalidArgument):
        await service.VerifyLabel(pb.VerifyLabelRequest(content="no label"))


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    store = MemoryKeyValueStore()
    async with serving(tmp_path, store) as service:
        await service.IssueKey(pb.IssueKeyRequest(tenant="acme"))
        mark = await service.ReserveMark(pb.ReserveMarkRequest(tenant="acme", request_id="r-1"))
        text = "".join(await marked(service, mark, [TEXT]))
    async with serving(tmp_path, store) as service:
        assert mark == await service.ReserveMark(pb.ReserveMarkRequest(tenant="acme", request_id="r-1"))
        (finding,) = (await service.Detect(pb.DetectRequest(text=text))).findings
        assert (finding.tenant, finding.mark_id, finding.request_id) == ("acme", mark.mark_id, "r-1")


async def test_an_error_keeps_its_reason(service: watermark_pb2_grpc.WatermarkServiceAsyncStub) -> None:
    request = {"tenant": "acme", "audit_id": "a-1"}
    await service.RegisterOutput(pb.RegisterOutputRequest(text="one", **request))
    with pytest.raises(MoltbotError) as caught:
        await service.RegisterOutput(pb.RegisterOutputRequest(text="two", **request))
    assert caught.value.reason == "IDEMPOTENCY_CONFLICT"


async def test_of_answers_registered_together_the_refused_are_named(
    service: watermark_pb2_grpc.WatermarkServiceAsyncStub,
) -> None:
    await service.RegisterOutput(pb.RegisterOutputRequest(tenant="acme", audit_id="a-1", text=TEXT))
    answer = await service.BatchRegisterOutputs(
        pb.BatchRegisterOutputsRequest(
            requests=[
                pb.RegisterOutputRequest(tenant="acme", audit_id="a-0", text=f"{TEXT} And more."),
                pb.RegisterOutputRequest(tenant="acme", audit_id="a-1", text="another text"),
                pb.RegisterOutputRequest(tenant="acme", audit_id="a-1", text=TEXT),  # the same again
                pb.RegisterOutputRequest(tenant="acme", text="without an audit id"),
                pb.RegisterOutputRequest(tenant="acme", text="without an audit id"),
            ]
        )
    )
    assert [(refusal.index, refusal.reason) for refusal in answer.refusals] == [(1, "IDEMPOTENCY_CONFLICT")]
    found = await service.Detect(pb.DetectRequest(text=f"{TEXT} And more."))
    assert found.verdict == pb.VERDICT_FOUND

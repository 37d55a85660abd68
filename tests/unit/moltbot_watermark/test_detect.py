from __future__ import annotations

import dataclasses
import math
import random
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moltbot_mesh.keyvalue import MemoryKeyValueStore
from moltbot_watermark import detect
from moltbot_watermark.detect import Detector, Layer, TextMatch
from moltbot_watermark.fingerprint import fingerprint
from moltbot_watermark.keys import Keyring
from moltbot_watermark.master_key import MasterKey
from moltbot_watermark.output_kind import OutputKind
from moltbot_watermark.output_rows import Output
from moltbot_watermark.registry import Registry
from moltbot_watermark.stream_embedder import embed
from moltbot_watermark.unicode_mark import frame_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = bytes(32)
TEXT = (
    "The lighthouse keeper counted the ships each evening, and wrote their names in a book that nobody else read.\n\n"
    "When the winter came he burned the book, for the sea had taken all the ships whose names were in it.\n\n"
    "In spring a new book lay on the table, and its first page bore a name that he had never seen before."
)
OTHER = "Bread needs flour, water, salt and time; of these the last is what most bakers are short of these days."


@dataclasses.dataclass(frozen=True)
class Mesh:
    keyring: Keyring
    registry: Registry
    detector: Detector

    def answer(
        self,
        tenant: str,
        request_id: str,
        text: str = TEXT,
        *,
        register: bool = True,
        kind: OutputKind = OutputKind.ANSWER,
    ) -> str:
        epoch = self.keyring.active(tenant).epoch
        mark_id, _ = self.registry.reserve(tenant, epoch, request_id)
        if register:
            audit_id = f"audit-{request_id}"
            output = Output(tenant, epoch, mark_id, request_id, audit_id, "", "tiny", time.time(), kind)
            self.registry.register(output, fingerprint(text, KEY))
        return embed(text, frame_text(self.keyring.key(tenant, epoch, "unicode"), epoch, mark_id, kind))


@pytest.fixture
async def keyring() -> Keyring:
    keyring = Keyring(MasterKey(bytes(range(32))), MemoryKeyValueStore(), 1e9)
    for tenant in ("acme", "other"):
        await keyring.issue(tenant)
    return keyring


@pytest.fixture
def mesh(keyring: Keyring, tmp_path: Path) -> Iterator[Mesh]:
    registry = Registry(tmp_path / "registry.sqlite")
    yield Mesh(keyring, registry, Detector(keyring, registry, KEY))
    registry.close()


def test_an_answer_is_traced_to_its_tenant_and_request(mesh: Mesh) -> None:
    mesh.answer("other", "request-0", OTHER)
    text = mesh.answer("acme", "request-1")
    (found,) = mesh.detector.detect(text, "").findings
    assert (found.layer, found.tenant, found.request_id) == (Layer.UNICODE, "acme", "request-1")
    assert (found.audit_id, found.model, found.text_match) == ("audit-request-1", "tiny", TextMatch.EXACT)
    assert (found.start, found.end) == (0, len(text))
    assert 0 < found.p_value <= 1e-13


def test_one_paragraph_within_other_text_is_found_where_it_stands(mesh: Mesh) -> None:
    paragraph = mesh.answer("acme", "request-1").split("\n\n")[1]
    text = f"{OTHER}\n\n{paragraph}\n\n{OTHER}"
    (found,) = mesh.detector.detect(text, "").findings
    assert found.text_match is TextMatch.PARTIAL
    assert text[found.start : found.end] == paragraph


def test_a_whole_answer_within_other_text_is_exact(mesh: Mesh) -> None:
    (found,) = mesh.detector.detect(f"{OTHER}\n\n{mesh.answer('acme', 'request-1')}\n\n{OTHER}", "").findings
    assert found.text_match is TextMatch.EXACT


def test_a_mark_copied_to_another_text_is_said_to_be_elsewhere(mesh: Mesh) -> None:
    answer = mesh.answer("acme", "request-1")
    frame = "".join(c for c in answer.split("\n\n")[0] if c > "\ufdff")
    (found,) = mesh.detector.detect(f"Bread{frame} {OTHER}", "").findings
    assert (found.request_id, found.text_match) == ("request-1", TextMatch.DIFFERENT)


def test_a_mark_that_was_never_registered_names_its_request(mesh: Mesh) -> None:
    (found,) = mesh.detector.detect(mesh.answer("acme", "request-1", register=False), "").findings
    assert (found.request_id, found.text_match) == ("request-1", TextMatch.UNKNOWN)


def test_a_tenant_finds_its_own_only(mesh: Mesh) -> None:
    text = mesh.answer("acme", "request-1")
    assert len(mesh.detector.detect(text, "acme").findings) == 1
    assert mesh.detector.detect(text, "other").findings == ()
    assert mesh.detector.detect(text, "nobody").findings == ()


async def test_a_mark_of_an_old_epoch_is_found(mesh: Mesh) -> None:
    text = mesh.answer("acme", "request-1")
    await mesh.keyring.rotate("acme")
    await mesh.keyring.revoke("acme", 1)
    (found,) = mesh.detector.detect(text, "").findings
    assert found.epoch == 1


def test_an_answer_without_its_mark_is_found_by_its_fingerprint(mesh: Mesh) -> None:
    mesh.answer("acme", "request-1")
    (found,) = mesh.detector.detect(TEXT.replace("\n\n", " ").upper(), "").findings
    assert (found.layer, found.text_match, found.request_id) == (Layer.FINGERPRINT, TextMatch.EXACT, "request-1")
    assert math.isnan(found.p_value)


def test_an_edited_answer_without_its_mark_is_found_in_part(mesh: Mesh) -> None:
    mesh.answer("acme", "request-1")
    (found,) = mesh.detector.detect(f"{OTHER} {TEXT.replace('evening', 'morning')}", "").findings
    assert (found.layer, found.text_match) == (Layer.FINGERPRINT, TextMatch.PARTIAL)


@pytest.mark.parametrize("without_mark", [False, True])
def test_a_thought_is_traced_and_said_to_be_one(mesh: Mesh, without_mark: bool) -> None:
    mesh.answer("acme", "request-1", OTHER)
    text = mesh.answer("acme", "request-1", kind=OutputKind.REASONING)
    (found,) = mesh.detector.detect(TEXT if without_mark else text, "").findings
    assert found.layer is (Layer.FINGERPRINT if without_mark else Layer.UNICODE)
    assert (found.kind, found.text_match, found.audit_id) == (OutputKind.REASONING, TextMatch.EXACT, "audit-request-1")


@pytest.mark.parametrize("without_mark", [False, True])
def test_a_thought_and_its_answer_in_one_text_are_two_findings(mesh: Mesh, without_mark: bool) -> None:
    thought = mesh.answer("acme", "request-1", kind=OutputKind.REASONING)
    answer = f"{OTHER}\n\nA baker who has it sleeps by day, and lets the dough rise while others are at their dinners."
    said = mesh.answer("acme", "request-1", answer)
    text = f"{TEXT}\n\n{answer}" if without_mark else f"{thought}\n\n{said}"
    findings = mesh.detector.detect(text, "").findings
    assert {(found.kind, found.request_id) for found in findings} == {(kind, "request-1") for kind in OutputKind}
    assert len(findings) == 2


def test_a_mark_of_a_thought_that_was_never_registered_says_what_it_marks(mesh: Mesh) -> None:
    text = mesh.answer("acme", "request-1", kind=OutputKind.REASONING, register=False)
    (found,) = mesh.detector.detect(text, "").findings
    assert (found.request_id, found.text_match, found.kind) == ("request-1", TextMatch.UNKNOWN, OutputKind.REASONING)


def test_an_answers_mark_on_a_thought_is_said_to_be_elsewhere(mesh: Mesh) -> None:
    said = mesh.answer("acme", "request-1", OTHER)
    frame = "".join(c for c in said if c > "\ufdff")
    mesh.answer("acme", "request-1", kind=OutputKind.REASONING)
    first, second = mesh.detector.detect(TEXT.replace("keeper", f"keeper{frame}", 1), "").findings
    assert (first.layer, first.kind, first.text_match) == (Layer.UNICODE, OutputKind.ANSWER, TextMatch.DIFFERENT)
    assert (second.layer, second.kind, second.text_match) == (Layer.FINGERPRINT, OutputKind.REASONING, TextMatch.EXACT)


def test_a_short_answer_that_anybody_gives_is_no_evidence(mesh: Mesh) -> None:
    mesh.answer("acme", "request-1", "Yes, of course.")
    assert mesh.detector.detect("Yes, of course.", "").findings == ()


def test_a_text_of_nobody_gives_insufficient_evidence(mesh: Mesh) -> None:
    mesh.answer("acme", "request-1")
    assert mesh.detector.detect(OTHER, "").findings == ()


def test_two_answers_in_one_text_are_both_found(mesh: Mesh) -> None:
    text = f"{mesh.answer('acme', 'request-1')}\n\n{mesh.answer('other', 'request-2', OTHER)}"
    assert {found.request_id for found in mesh.detector.detect(text, "").findings} == {"request-1", "request-2"}


@given(
    st.text(
        alphabet=st.one_of(st.characters(codec="utf-8"), st.characters(min_codepoint=0xE0100, max_codepoint=0xE01EF))
    )
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_without_a_mark_gives_no_finding(mesh: Mesh, text: str) -> None:
    assert mesh.detector.detect(text, "").findings == ()


def test_a_text_of_nothing_but_selectors_is_searched_within_bounds(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "_MAX_READINGS", 50)
    chance = random.Random(5)
    detection = mesh.detector.detect("".join(chr(0xE0100 + chance.randrange(240)) for _ in range(2000)), "")
    assert detection.findings == ()
    assert not detection.complete

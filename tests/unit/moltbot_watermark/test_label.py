from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moltbot_mesh.errors import InvalidArgument, NotFound
from moltbot_mesh.keyvalue import MemoryKeyValueStore
from moltbot_watermark.keys import Keyring
from moltbot_watermark.label import EXPLICIT, FIELDS, Label, Labels, markdown, metadata
from moltbot_watermark.master_key import MasterKey

ALLOWED = "".join(map(chr, (0x21, *range(0x23, 0x5C), *range(0x5D, 0x7F))))
LABEL = Label("1", "001191110000MA00", "request-1")
TEXT = "A text.\n\nOf two paragraphs."


@pytest.fixture
async def labels() -> Labels:
    keyring = Keyring(MasterKey(bytes(32)), MemoryKeyValueStore(), 1e9)
    for tenant in ("acme", "other"):
        await keyring.issue(tenant)
    return Labels(keyring)


def test_the_fields_stand_in_the_order_of_the_standard(labels: Labels) -> None:
    root = json.loads(metadata(labels.build("acme", LABEL)))
    assert list(root) == ["AIGC"]
    assert tuple(root["AIGC"]) == FIELDS == (
        "Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID", "ReservedCode2",
    )  # fmt: skip
    assert all(isinstance(value, str) for value in root["AIGC"].values())


@given(st.text(ALLOWED, min_size=1), st.text(ALLOWED, min_size=1), st.text(ALLOWED), st.sampled_from("123"))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_label_of_allowed_characters_verifies_in_both_forms(
    labels: Labels, producer: str, produce_id: str, propagator: str, value: str
) -> None:
    built = labels.build("acme", Label(value, producer, produce_id, content_propagator=propagator), TEXT)
    assert set("".join(built.values())) <= set(ALLOWED)
    for content in (metadata(built), markdown(built, TEXT)):
        found = labels.verify(content, "")
        assert (found.well_formed, found.authentic, found.tenant) == (True, True, "acme")
        assert found.produce_id == produce_id


@pytest.mark.parametrize("character", [" ", '"', "\\", "\n", "\x00", "\x7f", "é", "中"])
def test_a_character_outside_the_standard_is_refused(labels: Labels, character: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        labels.build("acme", Label("1", "p", f"id{character}"))
    assert [violation.field for violation in caught.value.violations] == ["ProduceID"]


@pytest.mark.parametrize("label", [Label("0", "p", "i"), Label("", "p", "i"), Label("1", "", "i"), Label("1", "p", "")])
def test_a_missing_or_unknown_value_is_refused(labels: Labels, label: Label) -> None:
    with pytest.raises(InvalidArgument):
        labels.build("acme", label)


def test_a_tenant_without_a_key_cannot_label(labels: Labels) -> None:
    with pytest.raises(NotFound):
        labels.build("nobody", LABEL)


def test_the_visible_label_says_ai_and_generated_in_chinese() -> None:
    assert all("AI" in text and "生成" in text for text in EXPLICIT.values())


def test_markdown_shows_the_label_and_keeps_front_matter(labels: Labels) -> None:
    text = f"---\ntitle: Something\n---\n{TEXT}"
    labelled = markdown(labels.build("acme", LABEL, text), text)
    _, front, body = labelled.split("---\n", 2)
    assert list(yaml.safe_load(front)) == ["AIGC", "title"]
    assert EXPLICIT["1"] in body
    assert body.endswith(TEXT)
    assert labels.verify(labelled, "").authentic


def test_a_rule_at_the_start_of_a_text_is_not_front_matter(labels: Labels) -> None:
    text = "---\n\nWords between two rules.\n\n---\n\nMore."
    labelled = markdown(labels.build("acme", LABEL, text), text)
    assert labelled.endswith(text)
    assert labels.verify(labelled, "").authentic


def test_a_labelled_text_is_not_labelled_again(labels: Labels) -> None:
    built = labels.build("acme", LABEL, TEXT)
    with pytest.raises(InvalidArgument, match="already"):
        markdown(built, markdown(built, TEXT))


def test_line_ends_and_blank_lines_around_the_text_do_not_matter(labels: Labels) -> None:
    labelled = markdown(labels.build("acme", LABEL, TEXT), TEXT)
    assert labels.verify(labelled.replace("\n", "\r\n") + "\n\n", "").authentic


def test_a_changed_text_is_found(labels: Labels) -> None:
    labelled = markdown(labels.build("acme", LABEL, TEXT), TEXT)
    found = labels.verify(labelled.replace("two", "three"), "")
    assert (found.well_formed, found.authentic) == (True, False)
    assert "not the one" in found.problems[0]


def test_a_removed_visible_label_is_found(labels: Labels) -> None:
    labelled = markdown(labels.build("acme", LABEL, TEXT), TEXT)
    assert not labels.verify(labelled.replace(f"> {EXPLICIT['1']}\n", ""), "").authentic


@pytest.mark.parametrize(
    ("old", "new"), [('"1"', '"3"'), ("request-1", "request-2"), ("001191110000MA00", "001191110000MA01")]
)
def test_a_changed_field_is_found(labels: Labels, old: str, new: str) -> None:
    found = labels.verify(metadata(labels.build("acme", LABEL)).replace(old, new, 1), "")
    assert (found.well_formed, found.authentic) == (True, False)


def test_the_propagator_may_fill_in_its_fields(labels: Labels) -> None:
    content = metadata(labels.build("acme", LABEL)).replace('"PropagateID":""', '"PropagateID":"p-9"')
    assert labels.verify(content, "").authentic


def test_a_tenant_verifies_its_own_labels_only(labels: Labels) -> None:
    content = metadata(labels.build("acme", LABEL))
    assert labels.verify(content, "acme").authentic
    assert not labels.verify(content, "other").authentic


def test_a_label_of_somebody_else_is_well_formed_and_not_authentic(labels: Labels) -> None:
    found = labels.verify(metadata(Label("1", "another", "id", "their-code")), "")
    assert (found.well_formed, found.authentic) == (True, False)


def fields(**changes: object) -> list[tuple[str, object]]:
    sound = dict.fromkeys(FIELDS, "") | {"Label": "1", "ContentProducer": "p", "ProduceID": "i"} | changes
    return list(sound.items())


def as_json(pairs: list[tuple[str, object]]) -> str:
    return '{"AIGC":{' + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}}"


@pytest.mark.parametrize(
    "content",
    [
        as_json(fields()[:1]),
        as_json(fields()[::-1]),
        as_json([fields()[0], *fields()]),
        as_json([*fields(), ("Another", "")]),
        as_json(fields(Label=1)),
        as_json(fields(Label="4")),
        as_json(fields(ContentProducer="a b")),
        as_json(fields(ProduceID="")),
        "---\nAIGC:\n" + "".join(f"  {name}: {value or repr('')}\n" for name, value in fields()) + "---\n",
    ],
)
def test_a_malformed_label_says_what_is_wrong(labels: Labels, content: str) -> None:
    found = labels.verify(content, "")
    assert (found.well_formed, found.authentic) == (False, False)
    assert found.problems


@pytest.mark.parametrize(
    "content",
    [
        "",
        "plain text",
        "{}",
        "[]",
        '{"AIGC":1}',
        "{" * 9999,
        "---\n[\n---\n",
        "---\na: b\n---\n",
        "---\n" + "[" * 9999 + "\n---\n",
    ],
)
def test_what_has_no_label_is_refused(labels: Labels, content: str) -> None:
    with pytest.raises(InvalidArgument, match="no GB 45438-2025 label"):
        labels.verify(content, "")

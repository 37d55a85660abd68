"""What a model says it takes beside text: in YAML, on the wire, in the store."""

from __future__ import annotations

import dataclasses

import pytest
from moltbot.model.v1 import manifest_pb2

from moltbot_mesh.errors import InvalidArgument
from moltbot_models.manifest import Manifest, problems_of, taken
from moltbot_models.manifest_wire import from_proto, to_proto
from moltbot_models.manifest_yaml import load_manifests
from moltbot_models.store.catalogue import manifests_text

PLAIN = Manifest("m", "text-generation", "openai", endpoint="http://127.0.0.1:1/v1")


def read(tmp_path, modalities: str) -> Manifest:
    file = tmp_path / "models.yaml"
    file.write_text(
        "models:\n- id: m\n  type: text-generation\n  provider: openai\n"
        f"  endpoint: http://127.0.0.1:1/v1\n  input_modalities: {modalities}\n",
        "utf-8",
    )
    return load_manifests(file)[0]


def test_a_model_that_says_nothing_takes_text_alone():
    assert taken(PLAIN.input_modalities) == ("text",)


@pytest.mark.parametrize("declared", [("image",), ("image", "text"), ("text", "image")])
def test_text_comes_first_and_is_always_taken(declared):
    assert taken(declared) == ("text", "image")


def test_what_yaml_declares_survives_the_store_and_the_wire(tmp_path):
    manifest = read(tmp_path, "[audio, image]")
    assert manifest.input_modalities == ("audio", "image")
    (tmp_path / "models.yaml").write_text(manifests_text([manifest]), "utf-8")
    assert load_manifests(tmp_path / "models.yaml") == (manifest,)
    assert from_proto(manifest_pb2.Manifest.FromString(to_proto(manifest).SerializeToString())) == manifest


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[image, video]", "no model takes 'video'; known are text, image, audio"),
        ("[image, image]", "names a thing twice"),
        ("image", "input_modalities must be a list of texts"),
        ("[1]", "input_modalities must be a list of texts"),
    ],
)
def test_a_word_that_is_not_known_is_refused_with_its_line_and_how_to_mend_it(tmp_path, written, said):
    with pytest.raises(InvalidArgument) as refused:
        read(tmp_path, written)
    assert "models.yaml:6: " in refused.value.message
    assert said in refused.value.message


def test_a_manifest_on_the_wire_that_takes_something_unknown_is_refused_by_field():
    proto = to_proto(PLAIN)
    proto.input_modalities.append("smell")
    with pytest.raises(InvalidArgument) as refused:
        from_proto(proto)
    assert [violation.field for violation in refused.value.violations] == ["input_modalities"]


@pytest.mark.parametrize(
    ("provider", "endpoint"), [("generic_http", "http://127.0.0.1:1/answer"), ("websocket", "ws://127.0.0.1:1/ws")]
)
def test_a_protocol_of_text_alone_cannot_declare_more(provider, endpoint):
    manifest = dataclasses.replace(PLAIN, provider=provider, endpoint=endpoint)
    assert problems_of(dataclasses.replace(manifest, input_modalities=("text",))) == []
    ((key, said),) = problems_of(dataclasses.replace(manifest, input_modalities=("image",)))
    assert (key, f"{provider} carries text alone" in said) == ("input_modalities", True)

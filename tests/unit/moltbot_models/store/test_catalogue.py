"""What was added to the store is there whole, or not at all."""

from __future__ import annotations

import dataclasses
import subprocess
from types import MappingProxyType

import pytest

from moltbot_mesh.errors import InvalidArgument, NotFound
from moltbot_models.gate.report import Check, GateReport
from moltbot_models.manifest import Auth, Manifest
from moltbot_models.store.catalogue import LOCK, ModelStore, manifests_text, revision_of
from moltbot_models.store.lock import differences, hash_files, read_lock

LOCAL = Manifest(
    "a/b", "text-generation", "triton", path="/m", context_length=64, options=MappingProxyType({"kv": "u8"})
)
FAR = Manifest(
    "far",
    "text-generation",
    "openai",
    endpoint="http://h/v1",
    auth=Auth("bearer", key_env="KEY"),
    tenants=("x",),
    labels=MappingProxyType({"site": "Köln"}),
)
CHECK = Check("kl_mean", "held_out", 0.5, 0.25, "at_most", 8)
REPORT = GateReport("a/b", "0" * 64, "u8", "f32", "1" * 64, (CHECK,))


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models")


def test_a_model_comes_back_as_it_was_added(store):
    hashes = {"config.json": "0" * 64}
    added = store.put(LOCAL, hashes, REPORT)
    found = store.get("a/b")
    assert found.manifest == added.manifest
    assert found.manifest.revision == revision_of({**hashes, "gate": "failed"}, LOCAL.options)
    assert store.put(LOCAL, hashes).manifest.revision == revision_of(hashes, LOCAL.options)
    store.put(LOCAL, hashes, REPORT)
    assert found.hashes() == hashes
    assert found.report == REPORT
    assert store.put(FAR, {}).manifest == FAR == store.get("far").manifest
    assert store.get("far").hashes() == {}
    assert [entry.manifest.id for entry in store.entries()[0]] == ["a/b", "far"]


def test_a_report_that_cannot_be_read_is_no_pass(store):
    entry = store.put(LOCAL, {"w": "0" * 64}, REPORT)
    (entry.folder / "gate.json").write_text('{"passed": true}')
    with pytest.raises(InvalidArgument, match="add the model again"):
        store.get("a/b").report  # noqa: B018 - reading it is what is tested


def test_other_weights_or_options_are_another_revision(store):
    first = store.put(LOCAL, {"w": "0" * 64}).manifest.revision
    assert store.put(LOCAL, {"w": "1" * 64}).manifest.revision != first
    changed = Manifest(LOCAL.id, LOCAL.task, LOCAL.provider, path="/m", options=MappingProxyType({"kv": "f32"}))
    assert store.put(changed, {"w": "0" * 64}).manifest.revision != first


def test_each_change_changes_the_stamp(store):
    for act in (
        lambda: store.put(LOCAL, {}),
        lambda: store.put(FAR, {}),
        lambda: store.put(FAR, {}),
        lambda: store.remove("far"),
    ):
        before = store.stamp()
        act()
        assert store.stamp() != before


def test_a_removed_model_is_gone_and_a_second_removal_says_so(store):
    store.put(LOCAL, {})
    store.put(FAR, {})
    store.remove("a/b")
    with pytest.raises(NotFound, match="far"):
        store.remove("a/b")
    with pytest.raises(NotFound):
        store.get("a/b")


def test_a_manifest_that_is_not_valid_costs_its_own_model_alone(store):
    store.put(LOCAL, {})
    store.put(FAR, {})
    (store.folder("far") / "manifest.yaml").write_text("models: [{id: far, colour: red}]")
    entries, problems = store.entries()
    assert [entry.manifest.id for entry in entries] == ["a/b"]
    assert "colour" in problems[0]
    assert "manifest.yaml:1" in problems[0]


def test_a_secret_stays_out_of_the_file_unless_it_was_written_there():
    assert "KEY" in manifests_text([FAR])
    assert "auth" not in manifests_text([LOCAL])


def test_ranges_and_imports_go_with_the_version_that_they_belong_to(store):
    folder = store.folder(LOCAL.id)
    for name in ("weights-1", "weights-2"):
        (folder / name).mkdir(parents=True)
    for name in ("int8-1.json", "int8-2.json", "int8-notes.txt"):
        (folder / name).touch()
    own = dataclasses.replace(LOCAL, path=str(folder / "weights-2"), options={"ranges": str(folder / "int8-2.json")})
    entry = store.put(own, {"w": "0" * 64})
    store.forget_earlier(entry)
    assert {file.name for file in folder.iterdir()} == {
        "manifest.yaml", "source.sha256", "weights-2", "int8-2.json", "int8-notes.txt",
    }  # fmt: skip
    store.forget_earlier(store.put(LOCAL, {"w": "0" * 64}))
    assert not [*folder.glob("int8-*.json"), *folder.glob("weights-*")]


def test_the_lock_is_what_sha256sum_checks(store, tmp_path):
    model = tmp_path / "model"
    (model / "1_Pooling").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "1_Pooling" / "config.json").write_text("{1}")
    (model / ".cache").write_text("x")
    hashes = hash_files(model)
    assert set(hashes) == {"config.json", "1_Pooling/config.json"}
    entry = store.put(LOCAL, hashes)
    lock = entry.folder / LOCK
    subprocess.run(["sha256sum", "--check", "--strict", str(lock)], cwd=model, check=True, capture_output=True)
    assert read_lock(lock) == hashes
    (model / "config.json").write_text("{} ")
    (model / "1_Pooling" / "config.json").unlink()
    (model / "new").write_text("")
    said = differences(entry.hashes(), hash_files(model))
    assert [one.partition(":")[0] for one in said] == ["1_Pooling/config.json", "new", "config.json"]


def test_a_damaged_lock_names_its_line(tmp_path):
    (tmp_path / LOCK).write_text("0" * 64 + "  a\nnonsense\n")
    with pytest.raises(InvalidArgument, match=f"{LOCK}:2"):
        read_lock(tmp_path / LOCK)

"""The node serves what is in the model store: added, changed, removed, refused with a reason."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import MappingProxyType

import pytest

import moltbot_models
from moltbot_daemon import node_models
from moltbot_daemon.node_models import NodeModels, followed, read_states
from moltbot_mesh.errors import FailedPrecondition, Unavailable
from moltbot_models.gate.report import Check, GateReport
from moltbot_models.manifest import Manifest
from moltbot_models.manifest_yaml import load_manifests
from moltbot_models.store.catalogue import ModelStore
from moltbot_models.store.lock import hash_files

TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"
OWN = Manifest("own", "text-generation", "embedded", path=str(TINY))


class FakeTriton:
    """Notes what it is asked."""

    endpoint = "unix:/triton.sock"

    def __init__(self):
        self.done, self.refuses, self.failed = [], None, {}

    async def place(self, spec):
        if self.refuses is not None:
            raise self.refuses
        self.done.append(("place", spec.id, dict(spec.options)))

    async def withdraw(self, model_id):
        self.done.append(("withdraw", model_id))


@pytest.fixture
def triton():
    return FakeTriton()


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models")


@pytest.fixture
def weights(tmp_path):
    return Path(shutil.copytree(TINY, tmp_path / "weights"))


@pytest.fixture
def node(store, triton, tmp_path):
    return NodeModels(store, [OWN], triton, tmp_path, local=True)


def put(store, weights, report=None, **options):
    manifest = Manifest("m", "text-generation", "triton", path=str(weights), options=MappingProxyType(options))
    return store.put(manifest, hash_files(weights), report)


def served(node):
    return {manifest.id: manifest for manifest in load_manifests(node.manifests)}


async def test_an_added_model_is_placed_and_then_named_to_the_router(node, store, weights, triton, tmp_path):
    node.write()
    assert set(served(node)) == {"own"}
    put(store, weights, step_tokens="64")
    await node.look()
    assert triton.done == [("place", "m", {"step_tokens": "64"})]
    assert served(node)["m"].endpoint == triton.endpoint
    assert read_states(tmp_path)["m"].state == "serving"
    await node.look()
    assert len(triton.done) == 1


async def test_other_options_place_it_again_and_other_words_do_not(node, store, weights, triton):
    entry = put(store, weights)
    await node.look()
    store.put(dataclasses.replace(entry.manifest, tenants=("x",)), entry.hashes())
    await node.look()
    assert len(triton.done) == 1
    assert served(node)["m"].tenants == ("x",)
    put(store, weights, kv="f32")
    await node.look()
    assert len(triton.done) == 2


async def test_a_removed_model_leaves_the_router_before_it_is_unloaded(node, store, weights, triton, monkeypatch):
    monkeypatch.setattr(node_models, "_LEAVE_S", 0.05)
    put(store, weights)
    await node.look()
    store.remove("m")
    await node.look()
    assert set(served(node)) == {"own"}
    assert len(triton.done) == 1
    for task in list(node._leaving):
        await task
    assert triton.done[-1] == ("withdraw", "m")


async def test_a_model_whose_files_changed_is_not_served_until_they_are_restored(
    node, store, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(node_models, "_RETRY_S", 0.0)
    put(store, weights)
    before = (weights / "config.json").read_text()
    (weights / "config.json").write_text(before + " ")
    await node.look()
    assert set(served(node)) == {"own"}
    assert "config.json: has changed" in read_states(tmp_path)["m"].detail
    (weights / "config.json").write_text(before)
    await node.look()
    assert "m" in served(node)


async def test_a_model_that_failed_its_gate_is_not_served(node, store, weights, triton, tmp_path):
    check = Check("kl_mean", "held_out", 0.5, 0.25, "at_most", 8)
    put(store, weights, report=GateReport("m", "0" * 64, "u8", "f32", "1" * 64, (check,)))
    await node.look()
    assert triton.done == []
    assert "kl_mean on 8 held_out texts is 0.5" in read_states(tmp_path)["m"].detail


@pytest.mark.parametrize("error", [FailedPrecondition("broken"), Unavailable("away")])
async def test_a_version_that_triton_refuses_leaves_the_former_one_and_is_tried_again(
    node, store, weights, triton, tmp_path, monkeypatch, error
):
    put(store, weights)
    await node.look()
    triton.refuses = error
    put(store, weights, kv="f32")
    await node.look()
    assert served(node)["m"].options == {}
    assert read_states(tmp_path)["m"].detail == error.message
    triton.refuses = None
    await node.look()
    assert served(node)["m"].options == {}, "not tried again at once"
    node._failed["m"] = 1, 0.0
    await node.look()
    assert served(node)["m"].options == {"kv": "f32"}


async def test_a_model_that_a_restart_of_triton_lost_is_placed_again_or_said_to_have_failed(
    node, store, weights, triton, tmp_path
):
    put(store, weights)
    await node.look()
    triton.failed, triton.refuses = {"m": "tokenizer.json is missing"}, FailedPrecondition("still broken")
    await node.look()
    assert read_states(tmp_path)["m"].detail == "still broken"
    await node.look()
    assert len(triton.done) == 1, "tried again at once"
    node._failed["m"], triton.refuses = (1, 0.0), None
    await node.look()
    assert triton.done == [("place", "m", {})] * 2
    assert read_states(tmp_path)["m"].state == "serving"


async def test_an_id_of_the_nodes_own_is_refused(node, store, weights, tmp_path):
    manifest = Manifest("own", "text-generation", "triton", path=str(weights))
    store.put(manifest, hash_files(weights))
    await node.look()
    assert "--id" in read_states(tmp_path)["own"].detail


async def test_upstreams_pass_without_triton_and_local_models_run_in_process(store, weights, tmp_path):
    put(store, weights)
    store.put(Manifest("far", "text-generation", "openai", endpoint="http://h/v1"), {})
    for local, expected in ((True, {"m": "embedded", "far": "openai"}), (False, {"far": "openai"})):
        node = NodeModels(store, [], None, tmp_path, local=local)
        await node.look()
        assert {one.id: one.provider for one in served(node).values()} == expected
    assert "inference.engine is none" in json.loads((tmp_path / "models.json").read_text())["models"]["m"]["detail"]


async def test_commands_know_whether_somebody_follows(node, tmp_path):
    assert not followed(tmp_path)
    async with node.following():
        assert followed(tmp_path)
    assert not followed(tmp_path)

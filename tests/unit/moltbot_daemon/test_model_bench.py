"""What tuning found is kept without another look at the files, or another verdict where nothing else is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import moltbot_models
from moltbot_daemon.commands.model_bench import keep
from moltbot_models.gate.report import Check, GateReport
from moltbot_models.manifest import Manifest
from moltbot_models.store.catalogue import ModelStore
from moltbot_models.store.lock import differences, hash_files

TINY = Path(moltbot_models.__file__).parent / "shipped" / "tiny"


def test_tuning_locks_no_file_that_has_changed(tmp_path):
    weights = Path(shutil.copytree(TINY, tmp_path / "weights"))
    store = ModelStore(tmp_path / "models")
    report = GateReport("m", "0" * 64, "u8", "f32", "1" * 64, (Check("kl_mean", "held_out", 0.1, 0.25, "at_most", 8),))
    before = store.put(
        Manifest("m", "text-generation", "triton", path=str(weights), options={"kv": "u8"}), hash_files(weights), report
    )
    (weights / "config.json").write_text("{}")
    keep(store, before, {"threads": "1"}, before.report)
    after = store.get("m")
    assert after.manifest.options == {"kv": "u8", "threads": "1"}
    assert after.manifest.revision != before.manifest.revision
    assert after.report == report
    assert differences(after.hashes(), hash_files(weights)), "a changed file passes as the one that was added"

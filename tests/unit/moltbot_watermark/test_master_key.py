from __future__ import annotations

import base64
import pickle
from typing import TYPE_CHECKING

import pytest

from moltbot_mesh import durable
from moltbot_mesh.errors import InvalidArgument
from moltbot_watermark.master_key import MasterKey, load_master_key

if TYPE_CHECKING:
    from pathlib import Path

SECRET = bytes(range(32))


def test_the_master_key_is_made_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    first = load_master_key(path).derive("unicode", "acme", 1)
    assert load_master_key(path).derive("unicode", "acme", 1) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["master.key"]


def test_a_master_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    load_master_key(path)
    path.chmod(0o640)
    with pytest.raises(InvalidArgument, match="chmod 600"):
        load_master_key(path)


@pytest.mark.parametrize("content", [b"", b"not base64!", base64.b64encode(bytes(16))])
def test_a_damaged_master_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InvalidArgument, match="not a master key"):
        load_master_key(path)


def test_the_master_key_shows_nothing_of_itself() -> None:
    key = MasterKey(SECRET)
    assert repr(key) == "MasterKey(…)"
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_each_tenant_epoch_and_purpose_has_a_key_of_its_own() -> None:
    key = MasterKey(SECRET)
    derived = {
        key.derive(purpose, tenant, epoch)
        for purpose in ("unicode", "label", "detect")
        for tenant in ("a", "b", "ab")
        for epoch in (1, 2, 258)
    }
    assert len(derived) == 27
    assert key.derive("a", "bc") != key.derive("ab", "c")


def test_a_master_key_that_was_made_in_the_same_moment_is_not_overwritten(tmp_path, monkeypatch) -> None:
    path = tmp_path / "master.key"
    create = durable.create_durably
    theirs = []

    def second(path, data):
        theirs.append(create(path, b"A" * 43 + b"=\n"))
        return create(path, data)

    monkeypatch.setattr(durable, "create_durably", second)
    assert load_master_key(path).derive("x") == MasterKey(bytes(32)).derive("x")
    assert theirs == [True]

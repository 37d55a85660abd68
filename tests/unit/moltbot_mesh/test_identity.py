from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from moltbot_mesh import identity
from moltbot_mesh.errors import InvalidArgument, Unauthenticated
from moltbot_mesh.identity import MeshIdentity, load_mesh_key

KEY = bytes(range(32))


class TestMeshKey:
    def test_it_is_made_once_and_read_by_its_owner_alone(self, tmp_path):
        path = tmp_path / "mesh.key"
        key = load_mesh_key(path)
        assert len(key) == 32
        assert load_mesh_key(path) == key
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(tmp_path.iterdir()) == [path]

    def test_services_that_start_together_share_one(self, tmp_path):
        with ThreadPoolExecutor(16) as pool:
            keys = list(pool.map(load_mesh_key, [tmp_path / "mesh.key"] * 64))
        assert len(set(keys)) == 1

    def test_one_that_others_may_read_is_refused(self, tmp_path):
        path = tmp_path / "mesh.key"
        load_mesh_key(path)
        path.chmod(0o644)
        with pytest.raises(InvalidArgument, match="chmod 600"):
            load_mesh_key(path)

    @pytest.mark.parametrize("content", [b"", b"short", b"AAAA", b"\xff\xfe"])
    def test_a_damaged_one_is_refused(self, tmp_path, content):
        path = tmp_path / "mesh.key"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(InvalidArgument, match="not a mesh key"):
            load_mesh_key(path)


class TestMeshToken:
    def test_it_names_the_service(self):
        assert MeshIdentity(KEY, "tool").verify(MeshIdentity(KEY, "gateway").token()) == "gateway"

    def test_it_opens_nothing_under_another_key(self):
        with pytest.raises(Unauthenticated, match="mesh key"):
            MeshIdentity(KEY, "tool").verify(MeshIdentity(bytes(32), "gateway").token())

    @pytest.mark.parametrize("part", range(4))
    def test_a_changed_part_is_noticed(self, part):
        parts = MeshIdentity(KEY, "gateway").token().split(".")
        parts[part] = "9" + parts[part][1:]
        with pytest.raises(Unauthenticated):
            MeshIdentity(KEY, "tool").verify(".".join(parts))

    @pytest.mark.parametrize("token", ["", ".", "v1.gateway.99999999999", "v1.a.b.c.d", "v1.gateway.1.é", "\x00"])
    def test_nonsense_is_refused(self, token):
        with pytest.raises(Unauthenticated):
            MeshIdentity(KEY, "tool").verify(token)

    def test_it_expires_also_where_it_was_seen_before(self, monkeypatch):
        now = 1_000_000.0
        monkeypatch.setattr(identity.time, "time", lambda: now)
        token, other = MeshIdentity(KEY, "gateway").token(), MeshIdentity(KEY, "tool")
        assert other.verify(token) == "gateway"
        now += 601
        with pytest.raises(Unauthenticated, match="expired"):
            other.verify(token)

    def test_it_is_renewed_at_half_its_life(self, monkeypatch):
        now = 1_000_000.0
        monkeypatch.setattr(identity.time, "time", lambda: now)
        mine = MeshIdentity(KEY, "gateway")
        first = mine.token()
        now += 299
        assert mine.token() == first
        now += 2
        assert mine.token() != first

    def test_the_key_does_not_show(self):
        assert repr(MeshIdentity(KEY, "gateway")) == "MeshIdentity(service='gateway')"


def test_a_mesh_key_that_can_be_neither_read_nor_made_is_told_with_its_path(tmp_path):
    directory, nowhere = tmp_path / "key", tmp_path / "file" / "key"
    directory.mkdir(mode=0o700)
    (tmp_path / "file").write_text("")
    for path in (directory, nowhere):
        with pytest.raises(InvalidArgument, match="mesh key") as raised:
            load_mesh_key(path)
        assert raised.value.message.startswith(str(path))

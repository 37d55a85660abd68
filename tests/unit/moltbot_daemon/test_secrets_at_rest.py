"""What others on the machine may see or steer."""

from __future__ import annotations

import os
import stat

import pytest

from moltbot_daemon import places
from moltbot_daemon.cli import main
from moltbot_daemon.settings import Settings
from moltbot_mesh.errors import InvalidArgument


@pytest.fixture(autouse=True)
def _usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOLTBOT_CONFIG", raising=False)

    def run(*arguments):
        assert main([*arguments, "--data-dir", str(tmp_path / "data")]) == 0
        return capsys.readouterr().out

    return run


def test_all_that_is_written_is_for_its_owner_alone(run, tmp_path):
    run("init")
    run("keys", "create", "--tenant", "acme")
    open_to_others = {p for p in tmp_path.rglob("*") if stat.S_IMODE(p.stat().st_mode) & 0o077}
    assert not open_to_others


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@host:6379/0", "redis://u:hunter2@host/0", "redis://h/0?password=hunter2"]
)
@pytest.mark.parametrize("command", ["show", "diff"])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_passwords_of_urls_are_not_shown(run, monkeypatch, url, command, form):
    monkeypatch.setenv("MOLTBOT_GATEWAY__REDIS_URL", url)
    said = run("config", command, *form)
    assert "redis://" in said
    assert "***" in said
    assert "hunter2" not in said


def test_a_link_where_the_sockets_go_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(places.tempfile, "gettempdir", lambda: str(tmp_path))
    found = places.places(Settings(data_dir=tmp_path / ("long" * 25), cache_dir=tmp_path / "cache"))
    assert found.run_dir.parent == tmp_path
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    found.run_dir.symlink_to(theirs)
    with pytest.raises(InvalidArgument, match="belongs to another user"):
        places.make(found)
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o755

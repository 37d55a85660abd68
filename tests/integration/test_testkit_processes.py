"""The test kit's own promises: a child that fails says why, one that was killed comes back on its port."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import redis

from moltbot_testkit.process import ChildProcess, ProcessFailedError
from moltbot_testkit.redis import RedisServer

if TYPE_CHECKING:
    from pathlib import Path


def test_a_child_that_ends_before_it_serves_shows_its_log(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import sys; print('no such flag: --x'); sys.exit(3)"]
    child = ChildProcess(argv, log=tmp_path / "child.log", probe=lambda: False)
    with pytest.raises(ProcessFailedError, match=r"(?s)status 3.*no such flag: --x"):
        child.start()


def test_a_child_that_never_serves_is_killed_and_shows_its_log(tmp_path: Path) -> None:
    argv = ["/bin/sh", "-c", "echo thinking; exec sleep 60"]
    child = ChildProcess(argv, log=tmp_path / "child.log", probe=lambda: False, start_timeout_s=2)
    with pytest.raises(ProcessFailedError, match=r"(?s)did not serve within 2 s.*thinking"):
        child.start()
    assert not child.is_running


@pytest.mark.parametrize(("durable", "expected"), [(True, b"1"), (False, None)])
def test_redis_comes_back_on_its_port_with_what_was_durable(
    tmp_path: Path, durable: bool, expected: bytes | None
) -> None:
    with RedisServer(tmp_path, durable=durable) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("a", "1")
        server.kill()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("a") == expected

"""Former logs: so many stay, the oldest goes."""

from __future__ import annotations

import pytest

from moltbot_mesh.envoy.log_files import set_aside


@pytest.mark.parametrize(("keep", "left"), [(0, []), (1, ["3"]), (2, ["3", "2"]), (5, ["3", "2", "1"])])
def test_the_newest_former_logs_stay(tmp_path, keep, left):
    path = tmp_path / "access.log"
    for text in ("1", "2", "3"):
        path.write_text(text)
        set_aside(path, keep)
        assert not path.exists()
    assert [(tmp_path / f"access.log.{n}").read_text() for n in range(1, len(left) + 1)] == left
    assert len(list(tmp_path.iterdir())) == len(left)

"""The README's commands, run as they stand there, in order, in one shell."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from moltbot_testkit.mesh import DaemonMesh

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"<!-- test -->\n```sh\n(.*?)```", re.DOTALL)
pytestmark = pytest.mark.timeout(240)


def blocks(file: Path) -> list[str]:
    """The blocks that a comment marks as tested."""
    return _BLOCK.findall(file.read_text())


def test_the_two_commands_stand_first():
    readme = (ROOT / "README.md").read_text()
    first = re.search(r"```sh\n(.*?)```", readme, re.DOTALL)
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["./moltbot daemon", "make test"]


def test_every_command_of_the_readme_does_what_it_says():
    found = blocks(ROOT / "README.md")
    assert len(found) >= 6
    directory = Path(tempfile.mkdtemp(prefix="moltbot-readme-"))
    mesh = DaemonMesh(directory, {"inference": {"threads": 1}})
    with mesh:
        script = "set -euo pipefail\n" + "\necho; echo '=== next'\n".join(found)
        done = subprocess.run(
            ["bash", "-c", script.replace("127.0.0.1:8080", f"127.0.0.1:{mesh.port}")],
            cwd=ROOT,
            env=mesh.environment(),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    parts = done.stdout.split("=== next")
    assert len(parts) == len(found)
    assert parts[0].startswith("ready")
    assert '"chat.completion"' in parts[1]
    assert parts[2].rstrip().endswith("data: [DONE]")
    assert "408" in parts[3]
    assert parts[4].strip()
    assert "request" in parts[5] or "insufficient evidence" in parts[5]
    assert "hashes" in parts[6]
    assert "proven" in parts[6]
    assert "intact" in parts[6]
    shutil.rmtree(directory)

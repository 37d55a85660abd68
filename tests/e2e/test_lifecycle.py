"""Start, stop, start again: nothing is cut off, nothing is lost, nothing is left behind."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import httpx2 as httpx
import pytest
import yaml

from moltbot_testkit.background import in_background
from moltbot_testkit.mesh import DaemonMesh, ServicesMesh
from moltbot_testkit.upstreams import FakeOpenAI, Script

pytestmark = pytest.mark.timeout(300)
CHAT = "/v1/chat/completions"


@pytest.fixture(params=[DaemonMesh, ServicesMesh], ids=["daemon", "services"])
def own(request):
    """A mesh of the test's own, that it may stop; its upstream answers slowly."""
    directory = Path(tempfile.mkdtemp(prefix="moltbot-life-"))
    upstream = FakeOpenAI()
    with in_background(upstream) as url:
        manifest = {"id": "echo", "type": "text-generation", "provider": "openai", "endpoint": url}
        (directory / "models.yaml").write_text(yaml.safe_dump({"models": [manifest]}))
        settings = {
            "inference": {"engine": "triton", "embedder": False, "threads": 1, "kv_cache_mib": 16},
            "router": {"models": [str(directory / "models.yaml")]},
            "envoy": {"drain_s": 8},
        }
        mesh = request.param(directory, settings)
        try:
            with mesh:
                yield mesh, upstream
        except BaseException:
            print(mesh.log()[-8000:])
            raise
    shutil.rmtree(directory)


def ask(mesh, **changes):
    return httpx.post(
        f"{mesh.url}{CHAT}",
        json={"model": "echo", "messages": [{"role": "user", "content": "Hello"}]} | changes,
        headers={"Authorization": f"Bearer {mesh.key('life')}"},
        timeout=60,
        trust_env=False,
    )


def test_a_running_answer_is_finished_and_what_was_kept_is_there_again(own):
    mesh, upstream = own
    session = {"moltbot": {"session": "kept"}}
    assert ask(mesh, **session).status_code == 200
    upstream.script = Script(chunks=("word ",) * 20, between_s=0.1)
    got = []
    running = threading.Thread(target=lambda: got.append(ask(mesh, stream=True)))
    running.start()
    while not upstream.answering:
        time.sleep(0.01)
    began = time.monotonic()
    codes = mesh.stop()
    seconds = time.monotonic() - began
    running.join(60)
    assert codes == [0] * len(codes), mesh.log()[-6000:]
    assert got[0].status_code == 200
    assert got[0].text.count("word ") == 20
    assert got[0].text.rstrip().endswith("data: [DONE]")
    assert seconds < 90
    assert json.loads(mesh.command("audit", "verify", "--json").stdout)["intact"]

    upstream.script = Script()
    mesh.start()
    assert ask(mesh, **session).status_code == 200
    said = [message["content"] for message in upstream.seen[-1].body["messages"]]
    assert said == ["Hello", "Hello there.", "Hello"]
    verified = json.loads(mesh.command("audit", "verify", "--json").stdout)
    assert verified["intact"]


def test_a_second_daemon_on_the_same_data_is_refused(tmp_path):
    mesh = DaemonMesh(Path(tempfile.mkdtemp(prefix="moltbot-two-")), {"inference": {"engine": "none"}})
    with mesh:
        done = mesh.command("daemon", "--port", "0", expect=64)
        assert "runs on" in done.stderr
        mesh.process.signal(signal.SIGKILL)
    # The lock and the children went with it: the next start needs no hand.
    with mesh:
        assert httpx.get(f"{mesh.url}/healthz", trust_env=False).status_code == 200
    shutil.rmtree(mesh.directory)

"""A mesh that asks the models of another machine's Triton, over mutual TLS."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2 as httpx
import pytest
import yaml

from moltbot_testkit.certificates import Authority
from moltbot_testkit.mesh import DaemonMesh
from moltbot_testkit.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def directory() -> Iterator[Path]:
    found = Path(tempfile.mkdtemp(prefix="moltbot-remote-"))
    yield found
    shutil.rmtree(found)


def test_one_daemon_serves_models_to_the_gateway_of_another(directory: Path) -> None:
    authority, port = Authority(directory), free_port()
    node, gateway = authority.issue("node.example"), authority.issue("gateway.example", client=True)
    tls = {"ca_file": str(authority.cert), "cert_file": str(gateway.cert), "key_file": str(gateway.key)}
    there = {
        "provider": "triton",
        "endpoint": f"grpcs://127.0.0.1:{port}",
        "tls": tls | {"server_name": "node.example"},
    }
    models = [
        {"id": "far-text", "type": "text-generation", "upstream_model": "moltbot-tiny"} | there,
        {"id": "far-vectors", "type": "embedding", "upstream_model": "minilm-l6"} | there,
    ]
    (directory / "models.yaml").write_text(yaml.safe_dump({"models": models}))
    serving = {
        "engine": "triton",
        "kv_cache_mib": 16,
        "listen": f"127.0.0.1:{port}",
        "tls_certificate": str(node.cert),
        "tls_key": str(node.key),
        "tls_client_ca": str(authority.cert),
    }
    asking = {"inference": {"engine": "none"}, "router": {"models": [str(directory / "models.yaml")]}}
    with DaemonMesh(directory / "a", {"inference": serving}), DaemonMesh(directory / "b", asking) as near:
        headers = {"Authorization": f"Bearer {near.key('t')}"}
        with httpx.Client(base_url=near.url, headers=headers, trust_env=False, timeout=30) as client:
            messages = [{"role": "user", "content": "What is 12 times 7?"}]
            asked = {"model": "far-text", "messages": messages, "max_tokens": 8}
            answer = client.post("/v1/chat/completions", json=asked)
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["completion_tokens"] > 0
            vectors = client.post("/v1/embeddings", json={"model": "far-vectors", "input": ["a", "b"]})
            assert [len(one["embedding"]) for one in vectors.json()["data"]] == [384, 384]
            page = client.get("/metrics").text
        # What the other machine's Triton counts stands in this one's metrics.
        assert 'moltbot_model_batches_total{model="far-vectors"} ' in page
        assert 'moltbot_model_completion_tokens_total{model="far-text"} ' in page
        # The same in one command, with files named from where it is typed.
        files = ("--tls-ca", tls["ca_file"], "--tls-cert", tls["cert_file"], "--tls-key", tls["key_file"])
        upstream = ("model", "add", there["endpoint"], "--id", "added", "--upstream-model", "moltbot-tiny")
        refused = near.command(*upstream, *files[:4], "--tls-server-name", "node.example", expect=64)
        assert "--tls-cert and --tls-key belong together" in refused.stderr
        assert "--tls-" in near.command("model", "add", str(directory), *files[:2], expect=64).stderr
        assert "added" in near.command(*upstream, *files, expect=69).stderr  # the certificate is another name's
        assert near.json(*upstream, *files, "--tls-server-name", "node.example")["state"] == "serving"
        with httpx.Client(base_url=near.url, headers=headers, trust_env=False, timeout=30) as client:
            answer = client.post("/v1/chat/completions", json=asked | {"model": "added"})
            assert answer.status_code == 200, answer.text

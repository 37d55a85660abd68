"""One mesh in each shape for all tests here: real Envoy, Triton, etcd and Redis, and upstreams that are played."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import httpx2 as httpx
import openai
import pytest
import yaml

from moltbot_testkit.background import in_background
from moltbot_testkit.mesh import DaemonMesh, ServicesMesh
from moltbot_testkit.ports import free_port
from moltbot_testkit.upstreams import FakeOpenAI, Script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moltbot_testkit.mesh import Mesh

TEXT, EMBEDDING = "moltbot-tiny", "minilm-l6"
LIMITED = ("limited", "limited-too")
REQUESTS_PER_MINUTE = 3
SHAPES = {"daemon": DaemonMesh, "services": ServicesMesh}


@dataclass(frozen=True, eq=False)
class World:
    """A running mesh and the upstreams behind it."""

    mesh: Mesh
    main: FakeOpenAI
    standby: FakeOpenAI
    brittle: FakeOpenAI
    """For tests whose failures open its model's breaker."""
    clients: contextlib.ExitStack

    @functools.cache  # noqa: B019 - lives as long as the session
    def client(self, tenant: str = "e2e") -> openai.OpenAI:
        return self.clients.enter_context(
            openai.OpenAI(base_url=f"{self.mesh.url}/v1", api_key=self.mesh.key(tenant), max_retries=0, timeout=60)
        )

    @functools.cache  # noqa: B019 - lives as long as the session
    def http(self, tenant: str | None = "e2e", role: str = "user") -> httpx.Client:
        headers = {} if tenant is None else {"Authorization": f"Bearer {self.mesh.key(tenant, role)}"}
        return self.clients.enter_context(
            httpx.Client(base_url=self.mesh.url, headers=headers, timeout=60, trust_env=False)
        )

    @contextlib.contextmanager
    def grpc(self, tenant: str = "e2e", role: str = "user") -> Iterator[tuple[grpc.Channel, list]]:
        with grpc.insecure_channel(self.mesh.target) as channel:
            yield channel, [("authorization", f"Bearer {self.mesh.key(tenant, role)}")]

    @contextlib.contextmanager
    def playing(self, script: Script, upstream: FakeOpenAI | None = None) -> Iterator[FakeOpenAI]:
        """An upstream plays a script while the context is open; what it saw before is forgotten."""
        upstream = upstream or self.main
        upstream.script, upstream.seen = script, []
        try:
            yield upstream
        finally:
            upstream.script = Script()


@pytest.fixture(scope="session", params=SHAPES)
def world(request) -> Iterator[World]:
    directory = Path(tempfile.mkdtemp(prefix=f"moltbot-{request.param}-"))
    main, standby, brittle = FakeOpenAI(), FakeOpenAI(), FakeOpenAI()
    with (
        in_background(main) as main_url,
        in_background(standby) as standby_url,
        in_background(brittle) as brittle_url,
    ):
        models = {
            "echo": main_url,
            "standby": standby_url,
            "brittle": brittle_url,
            "down": f"http://127.0.0.1:{free_port()}/v1",
        }
        manifests = [
            {"id": name, "type": "text-generation", "provider": "openai", "endpoint": url, "context_length": 8192}
            for name, url in models.items()
        ]
        looking = {"seer": ("image", "audio"), "seer-down": ("image",)}
        manifests += [
            {"id": name, "type": "text-generation", "provider": "openai", "input_modalities": list(takes)}
            | {"endpoint": models["down"] if name.endswith("down") else main_url, "context_length": 8192}
            for name, takes in looking.items()
        ]
        (directory / "models.yaml").write_text(yaml.safe_dump({"models": manifests}))
        rules = [
            {"task_type": "looks", "priority_models": ["seer-down", "standby", "seer"]},
            {"task_type": "failover", "priority_models": ["down", "standby"], "fallback_strategy": "round_robin"},
            {"task_type": "breaks", "priority_models": ["brittle", "standby"], "fallback_strategy": "round_robin"},
        ]
        (directory / "routing.json").write_text(json.dumps({"routing_rules": rules}))
        with contextlib.closing(sqlite3.connect(directory / "ledger.sqlite")) as db:
            db.executescript(
                "CREATE TABLE XQ_77_ledger (acct_no TEXT, state TEXT); INSERT INTO XQ_77_ledger VALUES (7, 'open');"
            )
        settings = {
            "inference": {"threads": 1, "kv_cache_mib": 32},
            "router": {"models": [str(directory / "models.yaml")], "rules": str(directory / "routing.json")},
            "gateway": {"tenants": {name: {"requests_per_minute": REQUESTS_PER_MINUTE} for name in LIMITED}},
            "envoy": {"drain_s": 5},
            "audit": {"bodies": "encrypted"},
            "tool": {
                "sql_database": str(directory / "ledger.sqlite"),
                "sql_tables": {"XQ_77_ledger": ["acct_no", "state"]},
            },
        }
        mesh = SHAPES[request.param](directory, settings)
        try:
            with mesh, contextlib.ExitStack() as clients:
                yield World(mesh, main, standby, brittle, clients)
        except BaseException:
            print(mesh.log()[-8000:])
            raise
    shutil.rmtree(directory)

"""The Tiltfile, read as Tilt reads it: Starlark is a subset of Python, and Tilt's functions are played here."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from moltbot_daemon.cli import parser
from moltbot_daemon.modules import MODULES
from moltbot_daemon.settings import Settings
from moltbot_mesh.settings import load

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def resources():
    found = {}

    def local_resource(name, **options):
        assert name not in found
        found[name] = options

    names = {name: lambda *args, **options: (args, options) for name in ("probe", "tcp_socket_action", "exec_action")}
    names["http_get_action"] = names["probe"]
    scope = {
        "config": SimpleNamespace(main_dir=str(ROOT)),
        "os": SimpleNamespace(path=os.path),
        "local_resource": local_resource,
        **names,
    }
    exec(compile((ROOT / "Tiltfile").read_text(), "Tiltfile", "exec"), scope)
    return found


def commands(resource):
    return [argv for argv in (resource.get("cmd"), resource.get("serve_cmd")) if isinstance(argv, list)]


def test_every_service_and_part_is_a_resource(resources):
    assert set(resources) == {*MODULES, "etcd", "redis", "triton", "envoy", "init"}


def test_every_resource_waits_for_resources_that_exist_and_none_for_itself(resources):
    def behind(name, seen=()):
        assert name not in seen, f"{name} waits for itself"
        for needed in resources[name].get("resource_deps", []):
            assert needed in resources
            behind(needed, (*seen, name))

    for name in resources:
        behind(name)


def test_everything_that_serves_says_when_it_is_ready(resources):
    for name, resource in resources.items():
        assert "serve_cmd" not in resource or "readiness_probe" in resource, name


def test_every_command_is_one_of_ours_with_an_environment_that_is_understood(resources):
    ours = [(argv, resource) for resource in resources.values() for argv in commands(resource)]
    assert len(ours) == 9
    for argv, resource in ours:
        assert argv[0] == "./moltbot"
        assert parser().parse_args(argv[1:]).command in {"serve", "init"}
        settings = load(Settings, None, resource.get("serve_env") or resource["env"])
        assert settings.etcd.endpoints
        assert settings.gateway.quota_store == "redis"
        assert settings.router.models

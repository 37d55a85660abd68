"""The generated configuration, against golden files: `UPDATE_GOLDEN=1` rewrites them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from moltbot_mesh.envoy.bootstrap import bootstrap, to_yaml
from moltbot_mesh.envoy.clusters import cluster_names, static_clusters
from moltbot_mesh.envoy.config import EXPOSED, EnvoyConfig
from moltbot_mesh.envoy.example import example
from moltbot_mesh.envoy.routes import exposed_services
from moltbot_mesh.errors import InvalidArgument

GOLDEN = Path(__file__).parent / "golden"
DEPLOYED = Path(__file__).parents[4] / "deploy/envoy/envoy.yaml"

DAEMON = EnvoyConfig(
    upstreams=dict.fromkeys(EXPOSED, ("unix:run/mesh.sock",)),
    http_upstream=("unix:run/http.sock",),
    descriptor_set=Path("descriptor_set.binpb"),
    admin_path=Path("run/envoy-admin.sock"),
)
EVERYTHING = EnvoyConfig(
    upstreams={"gateway": ("10.0.0.1:9001", "10.0.0.2:9001"), "audit": ("audit.internal:9002",)},
    http_upstream=("10.0.0.1:9002", "10.0.0.2:9002"),
    descriptor_set=Path("descriptor_set.binpb"),
    listen_host="::",
    listen_port=443,
    access_log="access.log",
    tls_certificate=Path("tls.crt"),
    tls_key=Path("tls.key"),
    otlp_target="[::1]:4317",
    trusted_proxies=1,
    cors_origins=("https://chat.example",),
)


def same_as_file(path: Path, text: str) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, f"{path.name} differs; UPDATE_GOLDEN=1 rewrites it"


@pytest.mark.parametrize(("name", "config"), [("daemon", DAEMON), ("everything", EVERYTHING)])
def test_the_bootstrap_is_the_golden_one(name, config):
    same_as_file(GOLDEN / f"{name}.yaml", to_yaml(bootstrap(config)))


def test_the_deployed_example_is_fresh():
    same_as_file(DEPLOYED, example())


def test_yaml_says_the_same_as_the_bootstrap():
    assert yaml.safe_load(to_yaml(bootstrap(EVERYTHING))) == bootstrap(EVERYTHING)


def test_services_behind_one_socket_share_one_cluster():
    assert set(cluster_names(DAEMON).values()) == {"gateway"}
    assert [cluster["name"] for cluster in static_clusters(DAEMON)] == ["gateway", "gateway-http"]


def test_a_service_without_upstream_is_not_exposed():
    assert "moltbot.audit.v1.AuditService" in exposed_services(EVERYTHING)
    assert "moltbot.tool.v1.ToolService" not in exposed_services(EVERYTHING)


def test_a_host_name_is_resolved_and_an_address_is_not():
    kinds = {cluster["name"]: cluster["type"] for cluster in static_clusters(EVERYTHING)}
    assert kinds == {"gateway": "STATIC", "audit": "STRICT_DNS", "gateway-http": "STATIC", "otlp": "STATIC"}


def test_only_upstreams_with_several_endpoints_are_health_checked_and_retried():
    gateway, audit, by_http, _ = static_clusters(EVERYTHING)
    assert "grpc_health_check" in gateway["health_checks"][0]
    assert "http_health_check" in by_http["health_checks"][0]
    assert "health_checks" not in audit
    assert "retry_policy" not in to_yaml(bootstrap(DAEMON))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"upstreams": {"audit": ("unix:a",)}}, "no upstream for 'gateway'"),
        ({"upstreams": {"gateway": ("unix:a",), "control": ("unix:b",)}}, "upstreams can be: gateway, router"),
        ({"upstreams": {"gateway": ("localhost",)}}, "write unix:/path or host:port .upstream of gateway."),
        ({"upstreams": {"gateway": ("h:99999",)}}, "not an address"),
        ({"upstreams": {"gateway": ("unix:/" + "a" * 120,)}}, "too long for a Unix socket"),
        ({"tls_key": Path("k")}, "belong together"),
        ({"admin_path": Path("/" + "a" * 120)}, "too long for a Unix socket"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_way_to_mend_it(change, message):
    with pytest.raises(InvalidArgument, match=message):
        replace(DAEMON, **change)

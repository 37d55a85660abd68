"""One collector, told to each part in the way it understands."""

from __future__ import annotations

import pytest

from moltbot_mesh.telemetry import TelemetrySettings


@pytest.mark.parametrize(
    ("endpoint", "target"),
    [
        ("http://127.0.0.1:4317", "127.0.0.1:4317"),
        ("http://collector", "collector:4317"),
        ("https://collector:4317", ""),
        ("", ""),
    ],
)
def test_envoy_gets_the_collector_where_it_can_speak_to_it(endpoint: str, target: str) -> None:
    assert TelemetrySettings(otlp_endpoint=endpoint).envoy_target == target


def test_triton_gets_the_whole_url() -> None:
    assert TelemetrySettings(otlp_http_endpoint="http://c:4318/").traces_url == "http://c:4318/v1/traces"
    assert not TelemetrySettings().traces_url

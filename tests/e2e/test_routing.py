"""Models and rules that change while the mesh runs, in exactly the forms of the documentation."""

from __future__ import annotations

import json
import time

import pytest
import yaml

from moltbot_testkit.upstreams import Script

pytestmark = pytest.mark.timeout(120)


def until(what, timeout_s=10.0):
    limit = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < limit, "did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def files(world):
    """The mesh's own files, as they were again at the end."""
    models, rules = world.mesh.directory / "models.yaml", world.mesh.directory / "routing.json"
    before = models.read_text(), rules.read_text()
    yield models, rules
    models.write_text(before[0])
    rules.write_text(before[1])
    until(lambda: "late" not in listed(world))


def listed(world):
    return {model.id for model in world.client().models.list()}


def ask(world, task_type):
    raw = world.client().chat.completions.with_raw_response.create(
        model="auto",
        messages=[{"role": "user", "content": "Hello"}],
        extra_body={"moltbot": {"task_type": task_type}},
    )
    return raw.headers["x-moltbot-model"]


def test_models_and_rules_are_taken_while_the_mesh_runs_and_an_invalid_file_changes_nothing(world, files):
    models, rules = files
    tree = yaml.safe_load(models.read_text())
    endpoint = next(model["endpoint"] for model in tree["models"] if model["id"] == "echo")
    late = {
        "id": "late",
        "type": "text-generation",
        "provider": "generic_http",
        "endpoint": endpoint.removesuffix("/v1") + "/v1/completions",
        "auth": {"type": "api_key", "key": "your-auth-token"},
        "max_tokens": 4096,
    }
    models.write_text(yaml.safe_dump({"models": [*tree["models"], late]}))
    until(lambda: "late" in listed(world))
    rule = {"task_type": "long_text_summary", "priority_models": ["late", "echo"], "fallback_strategy": "round_robin"}
    rules.write_text(json.dumps({"routing_rules": [rule]}))
    with world.playing(Script(chunks=("from late",))) as upstream:
        until(lambda: ask(world, "long_text_summary") == "late")
        assert upstream.seen[-1].headers["authorization"] == "Bearer your-auth-token"
        assert upstream.seen[-1].body["max_tokens"] <= 4096

    rules.write_text('{"routing_rules": [{"task_type": "long_text_summary", "priority_modles": ["echo"]}]}')
    until(lambda: "priority_models" in world.mesh.log())
    log = world.mesh.log()
    assert "routing.json:1" in log
    assert ask(world, "long_text_summary") == "late"
    done = world.mesh.command("config", "check", expect=64)
    assert "routing.json:1" in done.stderr


def test_models_that_share_a_rule_take_turns(world, files):
    _, rules = files
    rule = {"task_type": "turns", "priority_models": ["echo", "standby"], "strategy": "round_robin"}
    rules.write_text(json.dumps({"routing_rules": [rule]}))
    until(lambda: ask(world, "turns") in {"echo", "standby"} and len({ask(world, "turns") for _ in range(2)}) == 2)
    told = [ask(world, "turns") for _ in range(6)]
    assert told.count("echo") == told.count("standby") == 3


def test_more_instances_of_a_service_share_the_work_and_the_data_directory(world):
    if world.mesh.shape == "daemon":
        pytest.skip("one process has one of each")
    more = [
        world.mesh._child(f"{name}-2", "serve", name, serves=f"{name} serves port")
        for name in ("gateway", "router", "tool")
    ]
    sent = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
    try:
        for one in more:
            one.start()
        time.sleep(1)
        answers = [world.http().post("/v1/chat/completions", json=sent).status_code for _ in range(20)]
        listed = [world.http().get("/moltbot/v1/tools").status_code for _ in range(6)]
    finally:
        for one in more:
            one.stop(20)
    assert set(answers) == set(listed) == {200}
    time.sleep(0.5)
    assert {world.http().post("/v1/chat/completions", json=sent).status_code for _ in range(20)} == {200}

"""`moltbot doctor` on installations that are broken on purpose."""

from __future__ import annotations

import json
import os
import socket
import subprocess

import pytest

from moltbot_testkit.mesh import MOLTBOT
from moltbot_testkit.ports import free_port


@pytest.fixture
def doctor(tmp_path):
    """Runs it with settings; exit code, and what it found by check."""

    def doctor(settings="", **environ):
        (tmp_path / "moltbot.yaml").write_text(
            f"data_dir: {tmp_path / 'data'}\ncache_dir: {tmp_path / 'cache'}\nport: {free_port()}\n{settings}"
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MOLTBOT_")}
        done = subprocess.run(
            [MOLTBOT, "doctor", "--json"], cwd=tmp_path, env=kept | environ, capture_output=True, text=True, check=False
        )
        return done.returncode, {row["check"]: (row["state"], row["found"]) for row in json.loads(done.stdout)}

    return doctor


def test_a_fresh_machine_is_healthy_and_nothing_is_made(doctor, tmp_path):
    code, found = doctor()
    assert code == 0, found
    assert {state for state, _ in found.values()} == {"ok"}
    assert not (tmp_path / "data").exists()


def test_a_damaged_configuration_is_a_finding(doctor):
    code, found = doctor("prot: 1\n")
    assert code == 1
    assert found["configuration"][0] == "broken"
    assert "did you mean port" in found["configuration"][1]


def test_each_part_that_is_broken_is_found_with_a_way_to_mend_it(doctor):
    code, found = doctor(
        "inference: {model_path: /none}\n"
        "router: {rules: /none.json}\n"
        "tool: {sql_database: /none.sqlite}\n"
        "envoy: {tls_certificate: /none.pem, tls_key: /none.pem}\n"
        "mesh_key_file: /none/key\n"
        "gateway: {quota_store: redis, redis_url: 'redis://:hunter2@127.0.0.1:1/0'}\n"
        "host: 192.0.2.1\n"
    )
    assert code == 1
    says = {
        "text model": "config.json",
        "routing files": "router.rules",
        "SQL database": "/none.sqlite",
        "TLS": "/none.pem",
        "mesh key": "directory",
        "Redis": "does not answer",
        "public port": "192.0.2.1",
    }
    assert {check for check, (state, _) in found.items() if state == "broken"} == set(says)
    for check, text in says.items():
        assert text in found[check][1]
    assert "hunter2" not in str(found)


def test_an_etcd_that_does_not_answer_is_found(doctor):
    code, found = doctor("etcd: {endpoints: ['127.0.0.1:1']}\n")
    assert code == 1
    assert found["services"][0] == "broken"
    assert "127.0.0.1:1" in found["services"][1]


def test_a_port_that_something_else_holds_is_found(doctor):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        code, found = doctor(MOLTBOT_PORT=str(holder.getsockname()[1]))
    assert code == 1
    assert found["public port"][0] == "broken"


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_keys_that_are_damaged_or_open_to_others_are_found(doctor, tmp_path, mode):
    files = [tmp_path / "data" / name for name in ("mesh.key", "watermark/master.key", "audit/log.key")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("nonsense")
        file.chmod(mode)
    code, found = doctor()
    assert code == 1
    broken = [text for state, text in found.values() if state == "broken"]
    assert len(broken) == len(files)
    assert all(str(file) in text for file, text in zip(files, broken, strict=True))


def test_a_missing_envoy_is_found(doctor, tmp_path):
    (tmp_path / "envoy.py").write_text("raise ImportError('not here')\n")
    code, found = doctor(PYTHONPATH=str(tmp_path))
    assert code == 1
    assert found["Envoy"][0] == "broken"


def test_a_start_that_fails_makes_no_admin_key_that_nobody_ever_sees(doctor, tmp_path):
    argv = [MOLTBOT, "daemon", "--data-dir", str(tmp_path / "data"), "--port", "0", "--model-path", "/none"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 64, done.stderr
    assert not list((tmp_path / "data").glob("store/*"))


def test_administrators_keys_are_named_until_they_have_a_second_factor(doctor, tmp_path):
    def keys(*arguments):
        argv = [MOLTBOT, "keys", *arguments, "--data-dir", str(tmp_path / "data"), "--json"]
        return json.loads(subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)

    keys("create", "--tenant", "acme")
    ids = [keys("create", "--tenant", "acme", *role)["id"] for role in (("--admin",), ("--role", "auditor"))]
    state, found = doctor()[1]["API keys"]
    assert state == "warning"
    assert set(found.partition(": ")[2].partition("; ")[0].split(", ")) == set(ids)
    assert doctor("security: {second_factor: off}\n")[1]["API keys"] == ("ok", "3 valid of 3")
    for one in ids:
        keys("enrol", one)
    assert doctor()[1]["API keys"] == ("ok", "3 valid of 3")

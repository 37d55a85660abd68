"""What the command says, and how it ends, when it is used wrongly or what it needs is not there."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from moltbot_daemon.cli import main


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty directory; its exit code, output and messages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOLTBOT_CONFIG", raising=False)
    monkeypatch.setenv("MOLTBOT_DATA_DIR", str(tmp_path / "data"))

    def run(*arguments):
        try:
            code = main(list(arguments))
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("bogus",),
        ("keys",),
        ("keys", "create"),
        ("keys", "create", "--tenant", "A B"),
        ("keys", "revoke", "nobody"),
        ("daemon", "--port", "many"),
        ("daemon", "--port", "99999"),
        ("daemon", "--model", "x"),
        ("serve", "nothing"),
        ("serve", "audit"),
        ("config", "show", "--config", "missing.yaml"),
        ("audit", "verify"),
        ("audit", "verify", "."),
        ("audit", "gaps"),
    ],
)
def test_wrong_use_ends_with_64_says_why_and_prints_no_result(run, arguments):
    code, out, err = run(*arguments)
    assert code == 64
    assert out == ""
    assert "moltbot" in err


def test_a_configuration_that_is_not_there_names_the_command_that_writes_it(run):
    assert "moltbot init --config missing.yaml" in run("daemon", "--config", "missing.yaml")[2]


def test_a_directory_is_no_configuration(run, tmp_path):
    code, _, err = run("config", "check", "--config", str(tmp_path))
    assert code == 64
    assert "not a file" in err


def test_a_verifier_key_of_another_form_is_wrong_use_and_no_damage(run, tmp_path):
    (tmp_path / "checkpoint").touch()
    code, _, err = run("audit", "verify", str(tmp_path), "--key", "bad")
    assert code == 64
    assert "log.key.pub" in err


def test_events_are_expected_of_a_bundle_and_not_of_a_log(run, tmp_path):
    (tmp_path / "checkpoint").touch()
    code, _, err = run("audit", "verify", str(tmp_path), "--expect", "0" * 32)
    assert code == 64
    assert "bundle" in err


def test_a_log_without_its_key_is_damaged(run, tmp_path):
    (tmp_path / "checkpoint").touch()
    assert run("audit", "verify", str(tmp_path))[0] == 65


def test_a_file_that_cannot_be_read_is_named(run):
    code, _, err = run("watermark", "detect", "missing.txt")
    assert code == 1
    assert "missing.txt" in err


def test_a_text_that_is_not_utf8_is_refused_with_the_place(run, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    code, _, err = run("watermark", "detect", "latin.txt")
    assert code == 64
    assert "byte 3" in err


@pytest.mark.parametrize("arguments", [("status",), ("chat", "hi")])
def test_no_daemon_is_69_also_where_a_killed_one_left_its_socket(run, tmp_path, arguments):
    assert run(*arguments)[0] == 69
    import socket  # noqa: PLC0415

    (tmp_path / "data" / "run").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "data" / "run" / "mesh.sock"))
    code, _, err = run(*arguments)
    assert code == 69
    assert "no daemon runs" in err


def test_looking_at_keys_makes_no_directory(run, tmp_path):
    assert run("keys", "list")[0] == 0
    assert not (tmp_path / "data").exists()


def test_a_model_that_takes_images_is_added_listed_and_shown_as_such(run):
    for name, *takes in (("eyes", "--takes", "image"), ("plain",)):
        added = run("model", "add", "http://127.0.0.1:9/v1", "--id", name, *takes, "--no-check", "--no-wait")
        assert added[0] == 0, added[2]
    listed = {row["id"]: row["input_modalities"] for row in json.loads(run("model", "list", "--json")[1])}
    assert (listed["eyes"], listed["plain"]) == (["text", "image"], ["text"])
    assert json.loads(run("model", "show", "eyes", "--json")[1])["input_modalities"] == ["text", "image"]
    (eyes,) = (line for line in run("model", "list")[1].splitlines() if line.startswith("eyes "))
    assert "text-generation +image" in eyes
    assert run("model", "add", "http://127.0.0.1:9/v1", "--id", "x", "--takes", "smell")[0] == 64


def test_the_daemon_does_not_start_on_a_configuration_for_separate_services(run, monkeypatch, tmp_path):
    monkeypatch.setenv("MOLTBOT_ETCD__ENDPOINTS", "[127.0.0.1:1]")
    code, _, err = run("daemon")
    assert code == 64
    assert "moltbot serve" in err


def test_each_problem_of_what_the_configuration_names_is_told_at_once(run, tmp_path):
    (tmp_path / "key").write_text("short")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "moltbot.yaml").write_text(
        "inference: {model_path: /none}\n"
        "envoy: {tls_certificate: /none.pem, tls_key: /none.pem}\n"
        "tool: {sql_database: /none.sqlite}\n"
        "router: {models: [/none.yaml]}\n"
        "mesh_key_file: key\n"
        "watermark: {master_key_file: key}\n"
    )
    code, out, err = run("config", "check")
    assert code == 64
    assert out == ""
    for name in ("text model", "TLS", "SQL database", "routing files", "mesh key", "watermark key"):
        assert f"{name}: " in err
    assert "moltbot init --config /none.yaml" not in err


def test_a_secret_that_a_manifest_names_and_that_is_not_there_is_told(run, tmp_path, monkeypatch):
    (tmp_path / "models.yaml").write_text(
        "models: [{id: a, type: text-generation, provider: openai, endpoint: 'http://localhost:1/v1', "
        "auth: {type: bearer, key_env: NOT_THERE}}]\n"
    )
    (tmp_path / "moltbot.yaml").write_text("router: {models: models.yaml}\n")
    assert "NOT_THERE" in run("config", "check")[2]
    monkeypatch.setenv("NOT_THERE", "secret")
    code, out, _ = run("config", "check", "--json")
    assert code == 0
    assert json.loads(out)["models"] == ["a"]


def test_an_environment_variable_that_was_meant_for_a_setting_is_told(run, monkeypatch):
    monkeypatch.setenv("MOLTBOT_PROT", "9000")
    monkeypatch.setenv("MOLTBOT_GATEWAY__NOTHING", "1")
    monkeypatch.setenv("MOLTBOT_KEY", "somebody else's")
    code, _, err = run("config", "check")
    assert code == 0
    assert "did you mean MOLTBOT_PORT" in err
    assert "MOLTBOT_GATEWAY__NOTHING" in err
    assert "MOLTBOT_KEY" not in err


def test_columns_that_the_sql_database_has_not_are_told(run, tmp_path):
    import sqlite3  # noqa: PLC0415

    with sqlite3.connect(tmp_path / "shop.sqlite") as database:
        database.execute("CREATE TABLE orders (id)")
    database.close()
    (tmp_path / "moltbot.yaml").write_text("tool: {sql_database: shop.sqlite, sql_tables: {orders: [id, state]}}\n")
    assert "orders has no column state" in run("config", "check")[2]


def test_roles_of_a_key_are_named_one_way(run):
    code, said, problem = run("keys", "create", "--tenant", "acme", "--admin", "--role", "auditor")
    assert (code, said) == (64, "")
    assert "not allowed with argument" in problem


def test_the_key_is_printed_alone_as_it_is(run):
    code, said, _ = run("keys", "create", "--tenant", "acme")
    assert code == 0
    assert re.fullmatch(r"mb_[a-z2-7]+_[A-Za-z0-9_-]+\n", said)


def test_help_names_each_exit_code(run):
    code, said, _ = run("--help")
    assert code == 0
    assert "130 ended by Ctrl-C" in " ".join(said.split())


def test_the_first_admin_key_comes_with_what_it_lacks(run):
    _, said, _ = run("init")
    (key_id,) = re.findall(r"\): mb_([a-z2-7]+)_", said)
    assert f"`moltbot keys enrol {key_id}`" in said


def test_where_no_second_factor_is_asked_for_none_is_missed(run, monkeypatch):
    monkeypatch.setenv("MOLTBOT_SECURITY__SECOND_FACTOR", "off")
    assert "keys enrol" not in run("init")[1]


def test_the_command_line_can_be_read_without_grpc():
    """What gRPC does at a fork is decided when it is imported, and `main` decides it."""
    code = "import sys, moltbot_daemon.cli; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from moltbot_mesh.errors import InvalidArgument
from moltbot_mesh.settings import Section, keys, load


class Limits(Section):
    weight: Annotated[float, Field(gt=0)] = 1.0


class Gateway(Section):
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    names: tuple[str, ...] = ()
    tenants: dict[str, Limits] = Field(default_factory=dict)
    secret: str = ""


class Root(Section):
    gateway: Gateway = Gateway()
    data_dir: Path = Path("data")
    key_file: Path | None = None


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "moltbot.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path: Path | None, environ=None, overrides=None) -> str:
    with pytest.raises(InvalidArgument) as raised:
        load(Root, path, environ or {}, overrides)
    return raised.value.message


def test_without_a_file_the_defaults_hold():
    assert load(Root, None, {}) == Root()


def test_an_empty_file_is_no_file(file):
    assert load(Root, file("# nothing\n"), {}) == Root()


def test_the_environment_goes_before_the_file_and_the_command_line_before_both(file):
    path = file("gateway:\n  port: 1\n  secret: a\ndata_dir: /x\n")
    environ = {"MOLTBOT_GATEWAY__PORT": "2", "MOLTBOT_DATA_DIR": "/y", "MOLTBOT_NOT_A_KEY": "7", "OTHER": "8"}
    root = load(Root, path, environ, {"gateway.port": 3})
    assert (root.gateway.port, root.gateway.secret, root.data_dir) == (3, "a", Path("/y"))


def test_an_environment_variable_is_read_as_yaml():
    assert load(Root, None, {"MOLTBOT_GATEWAY__NAMES": "[a, b]"}).gateway.names == ("a", "b")


@pytest.mark.parametrize("text", ["", "{", "!odd x", "[2026-13-45"])
def test_a_text_that_is_not_yaml_stays_a_text(text):
    assert load(Root, None, {"MOLTBOT_GATEWAY__SECRET": text}).gateway.secret == text


def test_a_refused_environment_variable_is_named():
    message = refusal(None, {"MOLTBOT_GATEWAY__PORT": "-1"})
    assert message.startswith("environment variable MOLTBOT_GATEWAY__PORT: gateway.port:")


def test_a_refused_override_is_named():
    assert refusal(None, None, {"gateway.port": "x"}).startswith("command line (gateway.port): gateway.port:")


def test_a_refused_value_names_file_and_line_and_hides_the_value(file):
    path = file("data_dir: /x\ngateway:\n  port: hunter2\n")
    message = refusal(path)
    assert message.startswith(f"{path}:3: gateway.port:")
    assert "hunter2" not in message


def test_an_unknown_key_names_its_line_and_the_nearest(file):
    path = file("gateway:\n  prot: 1\n")
    assert refusal(path) == f"{path}:2: unknown key gateway.prot; did you mean gateway.port?"


def test_an_unknown_key_within_a_mapping_names_the_nearest_too(file):
    path = file("gateway:\n  tenants:\n    acme:\n      weigth: 2\n")
    assert refusal(path).startswith(f"{path}:4: unknown key gateway.tenants.acme.weigth; did you mean")
    assert refusal(path).endswith("gateway.tenants.acme.weight?")


def test_an_unknown_key_without_a_neighbour_gets_the_list(file):
    assert "known here: data_dir, gateway" in refusal(file("zzz: 1\n"))


def test_all_problems_are_told_at_once(file):
    assert len(refusal(file("gateway:\n  port: x\n  zzz: 1\n")).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: [1\n", 2, "not YAML"),
        ("- a\n", 1, "must be a mapping"),
        ("gateway:\n  port: 1\n  port: 2\n", 3, "gateway.port stands twice (first in line 2)"),
        ("gateway: !python/object:os.system x\n", 1, "not a plain value"),
        ("gateway:\n  ? [1, 2]\n  : x\n", 2, "not a plain value"),
    ],
)
def test_a_file_that_is_not_a_configuration_names_the_line(file, text, line, what):
    path = file(text)
    message = refusal(path)
    assert message.startswith(f"{path}:{line}: ")
    assert what in message


def test_a_date_that_does_not_exist_is_refused(file):
    assert "not a plain value" in refusal(file("data_dir: 2026-13-45\n"))


def test_a_missing_file_says_how_to_write_one(tmp_path):
    assert "moltbot init" in refusal(tmp_path / "none.yaml")


def test_sections_are_closed_and_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Root().gateway.port = 2  # type: ignore[misc]


def test_every_key_is_known_with_its_section():
    assert keys(Root)[("gateway", "port")] is Gateway
    assert ("gateway",) not in keys(Root)


def test_a_section_without_keys_has_its_defaults(file):
    assert load(Root, file("gateway:\n  # port: 1\ndata_dir: /x\n"), {}).gateway == Gateway()


def test_a_section_that_is_a_value_is_told_as_such(file):
    assert "moltbot.yaml:1: gateway: a section is a mapping" in refusal(file("gateway: 8080\n"))


def test_an_empty_path_is_none_where_there_may_be_none_and_else_refused(file):
    assert load(Root, file('key_file: ""\n'), {}).key_file is None
    assert load(Root, None, {"MOLTBOT_KEY_FILE": ""}).key_file is None
    assert "moltbot.yaml:2: data_dir: " in refusal(file('\ndata_dir: ""\n'))


def test_a_file_that_is_not_utf_8_is_told_with_its_line(tmp_path):
    path = tmp_path / "moltbot.yaml"
    path.write_bytes(b"gateway:\n  secret: \xff\n")
    assert "moltbot.yaml:2: a byte here is not UTF-8" in refusal(path)

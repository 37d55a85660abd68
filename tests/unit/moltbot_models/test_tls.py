"""Certificates of an upstream: what a manifest may say, what is read, when it is read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moltbot_mesh.errors import FailedPrecondition, InvalidArgument
from moltbot_models import tls
from moltbot_models.manifest import Manifest, problems_of
from moltbot_models.manifest_wire import from_proto, to_proto
from moltbot_models.manifest_yaml import load_manifests
from moltbot_models.store.catalogue import manifests_text
from moltbot_models.tls import Tls, TlsFiles, grpc_target, is_local
from moltbot_testkit.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

MUTUAL = Tls("ca.crt", "me.crt", "me.key", "models.example")


def manifest(endpoint: str, given: Tls = Tls(), provider: str = "triton") -> Manifest:  # noqa: B008 - immutable
    return Manifest("m", "text-generation", provider, endpoint, tls=given)


def wrong(one: Manifest) -> list[str]:
    return [key for key, _ in problems_of(one)]


@pytest.mark.parametrize(
    ("endpoint", "target", "encrypted"),
    [
        ("unix:/run/t.sock:18001", "unix:/run/t.sock:18001", False),
        ("127.0.0.1:8001", "127.0.0.1:8001", False),
        ("grpc://[::1]:8001", "[::1]:8001", False),
        ("grpcs://gpu-1:8001", "gpu-1:8001", True),
    ],
)
def test_a_grpc_endpoint_names_a_target_and_whether_it_speaks_tls(endpoint: str, target: str, encrypted: bool) -> None:
    assert grpc_target(endpoint) == (target, encrypted)


@pytest.mark.parametrize(
    "endpoint",
    ["http://gpu:8001", "grpcs://gpu", "gpu", "grpcs://unix:/a", "grpcs://gpu:80/x", "grpcs://gpu:80/", ":80"],
)
def test_what_is_no_grpc_endpoint_is_refused_with_its_key(endpoint: str) -> None:
    assert wrong(manifest(endpoint)) == ["endpoint"]


@pytest.mark.parametrize("target", ["unix:/a", "localhost:1", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1"])
def test_this_machine_is_known(target: str) -> None:
    assert is_local(target)


@pytest.mark.parametrize("target", ["10.0.0.7:8001", "gpu:8001", "0.0.0.0:8001", "localhost.example:1", "[fe80::1]:1"])
def test_plain_text_to_another_machine_is_refused_until_it_is_allowed(target: str) -> None:
    for endpoint in (target, f"grpc://{target}"):
        ((key, message),) = problems_of(manifest(endpoint))
        assert key == "endpoint"
        assert "grpcs://" in message
        assert "plain_text: true" in message
        assert not wrong(manifest(endpoint, Tls(plain_text=True)))
    assert not wrong(manifest(f"grpcs://{target}", MUTUAL))


def test_files_for_a_connection_without_tls_are_a_mistake() -> None:
    assert wrong(manifest("unix:/run/t.sock", MUTUAL)) == ["tls"]
    assert wrong(manifest("http://h/v1", MUTUAL, "openai")) == ["tls"]
    assert not wrong(manifest("https://h/v1", MUTUAL, "openai"))
    assert wrong(manifest("grpcs://h:1", Tls(cert_file="me.crt"))) == ["tls"]


def test_it_survives_yaml_and_the_wire(tmp_path: Path) -> None:
    one = manifest("grpcs://gpu:8001", MUTUAL)
    (tmp_path / "m.yaml").write_text(manifests_text([one]))
    assert load_manifests(tmp_path / "m.yaml") == (one,)
    assert from_proto(to_proto(one)) == one
    assert not to_proto(manifest("unix:/a")).HasField("tls")


def test_a_wrong_key_or_type_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        "models:\n- id: m\n  type: embedding\n  provider: triton\n  endpoint: grpcs://h:1\n"
        "  tls:\n    ca_fil: a\n    plain_text: 1\n"
    )
    with pytest.raises(InvalidArgument) as refused:
        load_manifests(tmp_path / "m.yaml")
    assert "m.yaml:7: unknown key ca_fil; did you mean ca_file?" in refused.value.message
    assert "m.yaml:8: plain_text must be true or false" in refused.value.message


def test_renewed_files_are_read_again_and_half_a_renewal_leaves_the_last_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_LOOK_S", 0.0)
    authority = Authority(tmp_path)
    mine = authority.issue("gateway", client=True)
    files = TlsFiles("m", Tls(str(authority.cert), str(mine.cert), str(mine.key)))
    first = files.current()
    assert files.current() is first
    old_key = mine.key.read_bytes()
    authority.issue("gateway", client=True)
    new_key = mine.key.read_bytes()
    mine.key.write_bytes(old_key)
    assert files.current() is first
    mine.key.write_bytes(new_key)
    second = files.current()
    assert second is not first
    assert (second.cert, second.key) == (mine.cert.read_bytes(), new_key)
    mine.cert.unlink()
    assert files.current() is second


def test_what_cannot_be_used_is_told_with_its_file(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, other = authority.issue("a"), authority.issue("b")
    (tmp_path / "empty").write_text("")
    for given, said in (
        (Tls(str(tmp_path / "gone")), "gone: cannot be read"),
        (Tls(str(tmp_path / "empty")), "empty: no certificates"),
        (Tls("", str(one.cert), str(other.key)), "b.key: not a certificate and its key"),
    ):
        with pytest.raises(FailedPrecondition) as refused:
            TlsFiles("m", given)
        assert said in refused.value.message

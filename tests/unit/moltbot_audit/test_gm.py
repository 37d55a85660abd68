"""SM2 beside Ed25519, SM3 of segments: checked by the stand-alone program, which has no library for them."""

from __future__ import annotations

import base64
import io
import json
from types import SimpleNamespace

import gmalg
import pytest

from moltbot_audit.adapters.sm2 import Sm2Cosigner
from moltbot_audit.check_bundle import Key, NotProven, Sm2Key, Unreadable, check
from moltbot_audit.checkpoint import Signer
from moltbot_audit.export import bundle
from moltbot_audit.segment import segments
from moltbot_audit.segment_digests import digest_problem, sm3, undigested, write_digest
from moltbot_audit.verify import verify_directory
from moltbot_mesh.errors import InvalidArgument


@pytest.fixture
def sm2(tmp_path):
    return Sm2Cosigner.load(tmp_path / "log.sm2.key", "test/log")


def test_numbers_with_zeros_at_their_beginning_keep_their_places(sm2, monkeypatch):
    monkeypatch.setattr(sm2, "_signer", SimpleNamespace(sign=lambda _: (b"\x01" * 31, b"\x02" * 32)))
    raw = base64.b64decode(sm2.line("test/log\n1\n").split(" ")[2])
    assert raw[4:] == b"\0" + b"\x01" * 31 + b"\x02" * 32


def test_a_secret_with_a_zero_at_its_beginning_is_written_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(gmalg.SM2, "generate_keypair", lambda _: (b"\x07" * 31, b""))
    made = Sm2Cosigner.load(tmp_path / "key", "test/log")
    assert Sm2Cosigner.load(tmp_path / "key", "test/log").verifier_key == made.verifier_key


def test_the_program_takes_what_the_library_signs(sm2):
    for number in range(20):
        line = sm2.line(f"test/log\n{number}\n")
        raw = base64.b64decode(line.split(" ")[2])
        key = Sm2Key.parse(sm2.verifier_key)
        assert raw[:4] == key.id
        assert key.signs(raw[4:], f"test/log\n{number}\n".encode())
        assert not key.signs(raw[4:], b"another text")
        assert not key.signs(raw[4:-1] + bytes([raw[-1] ^ 1]), f"test/log\n{number}\n".encode())


def test_a_published_example_is_taken():
    # GB/T 32918.5-2017, annex A.2: the recommended curve, identity 1234567812345678, "message digest".
    point = (
        0x09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020,
        0xCCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13,
    )
    r = "F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3"
    s = "B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA"
    key = Sm2Key("example", b"", point)
    assert key.signs(bytes.fromhex(r + s), b"message digest")


def test_a_bundle_can_be_asked_for_an_sm2_signature(open_ledger, tmp_path, sm2, record, monkeypatch):
    plain = Signer.load(tmp_path / "log.key", "test/log")
    both = Signer.load(tmp_path / "log.key", "test/log", [sm2.line])
    monkeypatch.setattr(Signer, "load", lambda *_: both)
    log = open_ledger()
    log.append([record() for _ in range(5)])
    log.close()
    log = open_ledger()
    data = b"".join(bundle(log, [3], "a test"))
    key, other = Key.parse(plain.verifier_key), Sm2Key.parse(sm2.verifier_key)
    assert check(io.BytesIO(data), key, sm2=other)[1] == 1
    assert check(io.BytesIO(data), key)[1] == 1
    header, rest = data.split(b"\n", 1)
    told = json.loads(header)
    told["checkpoint"] = "".join(told["checkpoint"].splitlines(keepends=True)[:-1])
    with pytest.raises(NotProven, match="SM2"):
        check(io.BytesIO(json.dumps(told).encode() + b"\n" + rest), key, sm2=other)


def test_a_sealed_segment_that_changed_is_named(open_ledger, record, directory):
    log = open_ledger(segment_bytes=1 << 12)
    log.append([record() for _ in range(100)])
    log.close()
    found = undigested(directory / "segments")
    assert len(found) == len(segments(directory / "segments")) - 1
    for path in found:
        write_digest(path, sm3(path))
    assert undigested(directory / "segments") == []
    assert verify_directory(directory).ok
    data = bytearray(found[0].read_bytes())
    data[-1] ^= 1  # behind the last record, where no checksum looks
    found[0].write_bytes(data)
    assert "SM3" in digest_problem(found[0])
    assert any(found[0].name in problem and "SM3" in problem for problem in verify_directory(directory).problems)


def test_sm3_is_that_of_the_standard(tmp_path):
    # GB/T 32905-2016, annex A.1.
    (tmp_path / "abc").write_bytes(b"abc")
    assert sm3(tmp_path / "abc") == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"


def test_a_key_that_is_none_is_refused(sm2, tmp_path):
    for text in (
        "",
        "a+b+c",
        Signer.load(tmp_path / "log.key", "test/log").verifier_key,
        sm2.verifier_key[:-4] + "AAAA",
    ):
        with pytest.raises(Unreadable):
            Sm2Key.parse(text)
    file = tmp_path / "log.sm2.key"
    file.write_text("no key")
    with pytest.raises(InvalidArgument):
        Sm2Cosigner.load(file, "test/log")

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moltbot_audit.checkpoint import Signer, parse, verify, verify_text
from moltbot_audit.merkle import EMPTY_ROOT
from moltbot_mesh.errors import DataLoss, InvalidArgument

# Source: golang.org/x/mod/sumdb/note, its example key and note.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\N{EM DASH} PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def signer() -> Signer:
    return Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)), "example.com/log")


def test_a_checkpoint_reads_as_the_specification_says():
    note = signer().sign(3, EMPTY_ROOT)
    lines = note.split("\n")
    assert lines[:4] == ["example.com/log", "3", base64.b64encode(EMPTY_ROOT).decode(), ""]
    assert lines[4].startswith("\N{EM DASH} example.com/log ")
    assert note.endswith("\n")
    assert verify(note, signer().verifier_key) == parse(note)


def test_a_note_signed_by_another_implementation_verifies():
    assert verify_text(GO_NOTE, GO_KEY).startswith("If you think")
    with pytest.raises(DataLoss):
        verify_text(GO_NOTE.replace("problem is", "problem was"), GO_KEY)


@pytest.mark.parametrize("change", [("\n3\n", "\n4\n"), ("log\n", "other\n"), ("\N{EM DASH}", "-")])
def test_a_changed_checkpoint_is_refused(change):
    note = signer().sign(3, EMPTY_ROOT).replace(*change, 1)
    with pytest.raises(DataLoss):
        verify(note, signer().verifier_key)


def test_the_signature_of_another_key_is_refused():
    other = Signer(Ed25519PrivateKey.generate(), "example.com/log")
    with pytest.raises(DataLoss):
        verify(other.sign(3, EMPTY_ROOT), signer().verifier_key)


@pytest.mark.parametrize("key", ["", "a+b", "a+00000000+!!", "example.com/log+00000000+" + "A" * 44])
def test_a_key_that_is_none_is_refused(key):
    with pytest.raises(InvalidArgument):
        verify(signer().sign(0, EMPTY_ROOT), key)


def test_the_key_is_made_once_and_readable_by_its_owner_alone(tmp_path):
    path = tmp_path / "key"
    first = Signer.load(path, "o")
    assert path.stat().st_mode & 0o777 == 0o600
    assert Signer.load(path, "o").verifier_key == first.verifier_key
    path.chmod(0o644)
    with pytest.raises(InvalidArgument, match="chmod 600"):
        Signer.load(path, "o")

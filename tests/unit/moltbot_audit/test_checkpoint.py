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
ENOCH_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
ENOCH_SIGNATURE = (
    "\N{EM DASH} EnochRoot "
    "rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
# Source: C2SP tlog-checkpoint, its example (https://c2sp.org/tlog-checkpoint).
C2SP_NOTE = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "\N{EM DASH} example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
# Source: the checkpoint of sum.golang.org of 2024-09-23, and its key as cmd/go has it (modfetch/key.go).
SUMDB_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SUMDB_NOTE = (
    "go.sum database tree\n30055305\nmXfgRcJ0bG0j3CPdKwgGWtUzBUbX67saZGRmFuJGGsM=\n\n"
    "\N{EM DASH} sum.golang.org "
    "Az3grpgEild5qw7+5dtV13Kf1C2Xurm8q4fhdxvcsDHnqNTaxL2AFjBY+2TyGKevucFcAAlWFJJYle3EJlDCrQ+y3A8=\n"
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


def test_of_several_signatures_the_one_of_the_key_counts():
    both = GO_NOTE + ENOCH_SIGNATURE
    assert verify_text(both, GO_KEY) == verify_text(both, ENOCH_KEY)
    with pytest.raises(DataLoss):
        verify_text(GO_NOTE, ENOCH_KEY)


def test_the_checkpoint_of_the_specification_reads_as_it_says():
    head = parse(C2SP_NOTE)
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20852163)
    assert head.root == base64.b64decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")


def test_the_checkpoint_of_a_public_log_verifies_and_a_changed_one_does_not():
    assert verify_text(SUMDB_NOTE, SUMDB_KEY).startswith("go.sum database tree\n30055305\n")
    assert parse(SUMDB_NOTE).size == 30055305
    with pytest.raises(DataLoss):
        verify_text(SUMDB_NOTE.replace("30055305", "30055304"), SUMDB_KEY)


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

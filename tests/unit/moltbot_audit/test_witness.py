"""A witness signs what only grows, once each, and forgets nothing."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moltbot_audit import merkle
from moltbot_audit.check_bundle import Key, read_note
from moltbot_audit.checkpoint import Cosigner, Signer, valid_cosignatures
from moltbot_audit.witness import Witness
from moltbot_mesh.errors import InvalidArgument

LEAVES = [merkle.leaf_hash(bytes([n])) for n in range(40)]
FORKED = [*LEAVES[:20], *(merkle.leaf_hash(b"other" + bytes([n])) for n in range(20))]


def node_of(leaves):
    def node(level, index):
        if level == 0:
            return leaves[index]
        return merkle.node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))

    return node


class World:
    def __init__(self, directory):
        self.signer = Signer(Ed25519PrivateKey.generate(), "test/log")
        self.cosigner = Cosigner(Ed25519PrivateKey.generate(), "witness.example/w1")
        self.directory = directory
        self.start()

    def start(self):
        self.witness = Witness({"test/log": self.signer.verifier_key}, self.cosigner, self.directory)

    def note(self, size, leaves=LEAVES):
        return self.signer.sign(size, merkle.root_of(size, node_of(leaves)))

    def ask(self, old, size, leaves=LEAVES, note=None):
        proof = merkle.consistency_proof(old, size, node_of(leaves))
        lines = [f"old {old}", *(base64.b64encode(one).decode() for one in proof)]
        return self.witness.add_checkpoint("\n".join(lines) + "\n\n" + (note or self.note(size, leaves)))


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "state")


def test_a_log_that_grows_is_cosigned_each_time(world):
    for old, size in ((0, 3), (3, 3), (3, 17), (17, 40)):
        reply = world.ask(old, size)
        assert reply.status == 200, reply
        note = world.note(size)
        body = note.partition("\n\n")[0] + "\n"
        assert valid_cosignatures(reply.body, body, world.cosigner.verifier_key) == [reply.body]
        key, witness = Key.parse(world.signer.verifier_key), Key.parse(world.cosigner.verifier_key)
        assert read_note(note + reply.body, key, [witness]).size == size


def test_a_witness_that_was_started_again_still_knows_what_it_saw(world):
    world.ask(0, 30)
    world.start()
    reply = world.ask(0, 35)
    assert (reply.status, reply.body, reply.content_type) == (409, "30\n", "text/x.tlog.size")


def test_a_log_that_was_rolled_back_is_not_cosigned(world):
    world.ask(0, 30)
    assert world.ask(20, 25).status == 409


def test_a_forked_log_is_not_cosigned(world):
    world.ask(0, 30)
    assert world.ask(30, 40, FORKED).status == 422
    assert world.ask(30, 30, FORKED).status == 409
    assert world.ask(30, 40).status == 200


def test_another_log_and_another_key_are_refused(world):
    other = Signer(Ed25519PrivateKey.generate(), "other/log")
    assert world.ask(0, 3, note=other.sign(3, bytes(32))).status == 404
    forged = Signer(Ed25519PrivateKey.generate(), "test/log")
    assert world.ask(0, 3, note=forged.sign(3, bytes(32))).status == 403


@pytest.mark.parametrize(
    "request_text",
    ["", "old 0", "old x\n\n", "old 01\n\n{note}", "new 0\n\n{note}", "old 9\n\n{note}", "old -1\n\n{note}",
     "old 0\nno base64!\n\n{note}", "old 0\n" + "\n".join(["AAAA"] * 64) + "\n\n{note}"],
)  # fmt: skip
def test_a_request_that_is_none_is_refused(world, request_text):
    assert world.witness.add_checkpoint(request_text.replace("{note}", world.note(3))).status == 400


def test_a_logs_key_is_no_witness_key(world):
    with pytest.raises(InvalidArgument):
        valid_cosignatures("", "", world.signer.verifier_key)

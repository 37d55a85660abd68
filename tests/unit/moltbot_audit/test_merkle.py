from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moltbot_audit import merkle
from moltbot_audit.tiles import Tree

if TYPE_CHECKING:
    from pathlib import Path

# Source: google/certificate-transparency, test/testdata (ReferenceMerkleTree inputs, roots and paths).
LEAVES = [
    bytes.fromhex(h)
    for h in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = [  # leaf from 1, size, path
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (3, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        2,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CONSISTENCY = [  # first, second, path
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


def tree_of(directory: Path, leaves: list[bytes]) -> Tree:
    tree = Tree(directory)
    for leaf in leaves:
        tree.append(merkle.leaf_hash(leaf))
    return tree


def naive_root(hashes: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return sha256(b"\x01" + naive_root(hashes[:k]) + naive_root(hashes[k:])).digest()


def test_an_empty_tree_has_the_published_root(tmp_path):
    assert Tree(tmp_path).root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("size", range(1, 9))
def test_the_published_roots_come_out(tmp_path, size):
    assert tree_of(tmp_path, LEAVES[:size]).root().hex() == ROOTS[size - 1]
    assert tree_of(tmp_path, LEAVES).root(size).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("leaf", "size", "path"), PATHS)
def test_the_published_audit_paths_come_out_and_verify(tmp_path, leaf, size, path):
    tree = tree_of(tmp_path, LEAVES)
    proof = merkle.inclusion_proof(leaf - 1, size, tree.node)
    assert [h.hex() for h in proof] == path
    root = bytes.fromhex(ROOTS[size - 1])
    assert merkle.verify_inclusion(merkle.leaf_hash(LEAVES[leaf - 1]), leaf - 1, size, proof, root)


@pytest.mark.parametrize(("first", "second", "path"), CONSISTENCY)
def test_the_published_consistency_proofs_come_out_and_verify(tmp_path, first, second, path):
    proof = merkle.consistency_proof(first, second, tree_of(tmp_path, LEAVES).node)
    assert [h.hex() for h in proof] == path
    roots = bytes.fromhex(ROOTS[first - 1]), bytes.fromhex(ROOTS[second - 1])
    assert merkle.verify_consistency(first, second, proof, *roots)


def changed(path: list[bytes]) -> list[list[bytes]]:
    """A proof in all the ways in which it must not pass.

    Source: the invalid vectors of transparency-dev/merkle (testdata: modified, removed, inserted, preceding, trailing).
    """
    garbage = sha256(b"garbage").digest()
    flipped = [[*path[:n], bytes([one[0] ^ 16]) + one[1:], *path[n + 1 :]] for n, one in enumerate(path)]
    removed = [path[:n] + path[n + 1 :] for n in range(len(path))]
    added = [[*path[:n], extra, *path[n:]] for n in range(len(path) + 1) for extra in (garbage, b"", *path[:1])]
    return flipped + removed + added


@pytest.mark.parametrize(("leaf", "size", "path"), PATHS)
def test_a_published_audit_path_that_was_changed_is_refused(leaf, size, path):
    root, found = bytes.fromhex(ROOTS[size - 1]), merkle.leaf_hash(LEAVES[leaf - 1])
    hashes = [bytes.fromhex(one) for one in path]
    for wrong in changed(hashes):
        assert not merkle.verify_inclusion(found, leaf - 1, size, wrong, root)
    at = leaf - 1
    for index, other in ((at - 1, size), (at + 1, size), (at ^ 2, size), (at, size * 2), (at, size // 2)):
        assert not merkle.verify_inclusion(found, index, other, hashes, root)
    assert not merkle.verify_inclusion(found, leaf - 1, size, hashes, sha256(b"").digest())


@pytest.mark.parametrize(("first", "second", "path"), CONSISTENCY)
def test_a_published_consistency_proof_that_was_changed_is_refused(first, second, path):
    roots = bytes.fromhex(ROOTS[first - 1]), bytes.fromhex(ROOTS[second - 1])
    hashes = [bytes.fromhex(one) for one in path]
    for wrong in changed(hashes):
        assert not merkle.verify_consistency(first, second, wrong, *roots)
    if first != second:
        for smaller, larger in ((first - 1, second), (first + 1, second), (first, second * 2), (first, second // 2)):
            assert not merkle.verify_consistency(smaller, larger, hashes, *roots)
        assert not merkle.verify_consistency(first, second, hashes, *reversed(roots))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_proof_of_any_tree_verifies_and_no_other_leaf_place_or_root_does(tmp_path_factory, data):
    hashes = [merkle.leaf_hash(b"%d" % n) for n in range(data.draw(st.integers(1, 700)))]
    tree = Tree(tmp_path_factory.mktemp("tree"))
    for found in hashes:
        tree.append(found)
    size = data.draw(st.integers(1, len(hashes)))
    index = data.draw(st.integers(0, size - 1))
    root = tree.root(size)
    assert root == naive_root(hashes[:size])
    proof = merkle.inclusion_proof(index, size, tree.node)
    assert merkle.verify_inclusion(hashes[index], index, size, proof, root)
    assert not merkle.verify_inclusion(merkle.leaf_hash(b"x"), index, size, proof, root)
    assert not merkle.verify_inclusion(hashes[index], index, size, proof, merkle.leaf_hash(b"x"))
    assert not merkle.verify_inclusion(hashes[index], index, size, [*proof, root], root)
    if size > 1:
        assert not merkle.verify_inclusion(hashes[index], (index + 1) % size, size, proof, root)
    first = data.draw(st.integers(1, size))
    consistency = merkle.consistency_proof(first, size, tree.node)
    assert merkle.verify_consistency(first, size, consistency, tree.root(first), root)
    assert not merkle.verify_consistency(first, size, consistency, merkle.leaf_hash(b"x"), root)

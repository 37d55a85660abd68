from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moltbot_audit import merkle
from moltbot_audit.tiles import Tree, read_tile, tile_path
from moltbot_mesh.errors import DataLoss

if TYPE_CHECKING:
    from pathlib import Path


def tree_of(directory: Path, size: int) -> Tree:
    tree = Tree(directory)
    for n in range(size):
        tree.append(merkle.leaf_hash(b"%d" % n))
    return tree


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 512, 70_000])
def test_a_tree_restored_from_its_tiles_is_the_same_and_grows_on(tmp_path, size):
    tree = tree_of(tmp_path, size)
    tree.publish()
    again = Tree(tmp_path)
    again.restore(size)
    assert (again.size, again.root()) == (size, tree.root())
    for grown in (tree, again):
        grown.append(merkle.leaf_hash(b"next"))
    assert again.root() == tree.root()
    assert merkle.inclusion_proof(size, size + 1, again.node) == merkle.inclusion_proof(size, size + 1, tree.node)


def test_a_tree_with_a_missing_tile_says_which(tmp_path):
    tree = tree_of(tmp_path, 600)
    tree.publish()
    (tmp_path / "tile/0/001").unlink()
    with pytest.raises(DataLoss, match="tile/0/001"):
        Tree(tmp_path).restore(600)


def test_tiles_lie_where_the_specification_says():
    assert tile_path(0, 5) == "tile/0/005"
    assert tile_path(1, 1_234_067) == "tile/1/x001/x234/067"
    assert tile_path(0, 1000, 17) == "tile/0/x001/000.p/17"


def test_no_stale_partial_tile_is_left(tmp_path):
    tree = Tree(tmp_path)
    for n in range(300):
        tree.append(merkle.leaf_hash(b"%d" % n))
        tree.publish()
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "tile/0/000",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
    ]


def test_a_tile_that_cannot_be_written_is_written_later_and_proofs_go_on(tmp_path, monkeypatch):
    tree = tree_of(tmp_path, 300)
    with monkeypatch.context() as patch:
        patch.setattr(Tree, "_write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            tree.flush()
        proof = merkle.inclusion_proof(7, 300, tree.node)
        assert merkle.verify_inclusion(merkle.leaf_hash(b"7"), 7, 300, proof, tree.root())
    tree.publish()
    again = Tree(tmp_path)
    again.restore(300)
    assert again.root() == tree.root()


def test_an_incomplete_tile_is_read_from_a_later_form_of_it(tmp_path):
    tree = tree_of(tmp_path, 10)
    tree.publish()
    first = read_tile(tmp_path, 0, 0, 10)
    for n in range(10, 20):
        tree.append(merkle.leaf_hash(b"%d" % n))
    tree.publish()
    assert not (tmp_path / tile_path(0, 0, 10)).exists()
    assert read_tile(tmp_path, 0, 0, 10) == first

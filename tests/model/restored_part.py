"""What restoring a path must leave behind, said by paths alone: inside it what the snapshot has,
outside what was there (C7).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from snapfs.ids import ROOT_INO
from tests.model.tree_model import Node, Tree

Path = tuple[bytes, ...]


def flat(tree: Tree, ino: int, prefix: Path = ()) -> dict[Path, int]:
    """The inode behind each path at and below an inode."""
    found = {prefix: ino}
    for name, there in tree.nodes[ino].names.items():
        found |= flat(tree, there, (*prefix, name))
    return found


def facts(node: Node) -> tuple[Any, ...]:
    """All of a node but for numbers of inodes and links."""
    return node.mode, node.content, tuple(sorted(node.attributes.items()))


def is_within(path: Path, targets: Iterable[Path]) -> bool:
    return any(path[: len(way)] == way for way in targets)


def expect(base: Tree, past: Tree, targets: dict[Path, int]) -> dict[Path, tuple[Any, ...]]:
    """Facts by path, after inodes of the snapshot stand at the paths of ``targets`` (0: nothing
    does).

    Directories that were missing on the way are not in it.
    """
    found = {
        path: facts(base.nodes[ino])
        for path, ino in flat(base, ROOT_INO).items()
        if not is_within(path, targets)
    }
    return found | {path: facts(past.nodes[ino]) for path, ino in inside(past, targets).items()}


def inside(past: Tree, targets: dict[Path, int]) -> dict[Path, int]:
    """What the snapshot has at the paths and below them."""
    return {
        path: ino
        for way, wanted in targets.items()
        if wanted
        for path, ino in flat(past, wanted, way).items()
    }


def judge(before: Tree, past: Tree, targets: dict[Path, int], after: Tree) -> None:
    """Raises ``AssertionError``."""
    expected = expect(before, past, targets)
    now = flat(after, ROOT_INO)
    made = now.keys() - expected.keys()
    there = flat(before, ROOT_INO)
    assert all(
        path not in there and any(way[: len(path)] == path for way in targets) for path in made
    ), sorted(made)
    assert not expected.keys() - now.keys(), sorted(expected.keys() - now.keys())
    for path, wanted_facts in expected.items():
        assert facts(after.nodes[now[path]]) == wanted_facts, path
    # Outside, files are the same as before, not only alike.
    for path, ino in there.items():
        if not is_within(path, targets):
            assert now[path] == ino, path
    # Names of one file are names of one file again.
    found = inside(past, targets)
    for one, ino in found.items():
        for other, another in found.items():
            assert (ino == another) == (now[one] == now[other]), (one, other)
    names = list(now.values())
    for ino, node in after.nodes.items():
        if node.nlink:
            links = (
                2 + sum(after.nodes[there].is_directory for there in node.names.values())
                if node.is_directory
                else names.count(ino)
            )
            assert node.nlink == links, f"inode {ino} counts {node.nlink} links, and has {links}"

"""What restoring a path must leave behind, said by paths alone: inside it what the snapshot has, outside what was there (C7)."""

from __future__ import annotations

from typing import Any

from tree_model import Node, Tree

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


def is_within(path: Path, way: Path) -> bool:
    return path[: len(way)] == way


def expect(base: Tree, past: Tree, way: Path, wanted: int) -> dict[Path, tuple[Any, ...]]:
    """Facts by path, after ``wanted`` of the snapshot stands at ``way``; directories that were missing on the way are not in it."""
    found = {path: facts(base.nodes[ino]) for path, ino in flat(base, base.top).items() if not is_within(path, way)}
    return found | {path: facts(past.nodes[ino]) for path, ino in flat(past, wanted, way).items()}


def judge(before: Tree, past: Tree, way: Path, wanted: int, after: Tree) -> None:
    """Raises ``AssertionError``."""
    expected = expect(before, past, way, wanted)
    now = flat(after, after.top)
    made = now.keys() - expected.keys()
    assert all(way[: len(path)] == path and path not in flat(before, before.top) for path in made), sorted(made)
    assert not expected.keys() - now.keys(), sorted(expected.keys() - now.keys())
    for path, wanted_facts in expected.items():
        assert facts(after.nodes[now[path]]) == wanted_facts, path
    # Outside, files are the same as before, not only alike.
    for path, ino in flat(before, before.top).items():
        if not is_within(path, way):
            assert now[path] == ino, path
    # Names of one file are names of one file again.
    inside = flat(past, wanted, way)
    for one, ino in inside.items():
        for other, another in inside.items():
            assert (ino == another) == (now[one] == now[other]), (one, other)
    names = list(now.values())
    for ino, node in after.nodes.items():
        if node.nlink:
            links = 2 + sum(after.nodes[there].is_directory for there in node.names.values()) if node.is_directory else names.count(ino)
            assert node.nlink == links, f"inode {ino} counts {node.nlink} links, and has {links}"

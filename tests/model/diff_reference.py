"""What differs between two trees, found by walking both: the plainest way there is, which
``snapshots.compare.diff`` is compared with.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snapfs.errors import CorruptBlock, UsageError
from snapfs.filesystem import Filesystem, View
from snapfs.ids import ROOT_INO
from snapfs.snapshots.compare.diff import Diff
from snapfs.snapshots.compare.differing import Difference
from snapfs.snapshots.compare.sides import State
from snapfs.store.commit.volume import Volume

#: kind, old path, path, do data differ, do attributes differ
Row = tuple[str, bytes | None, bytes | None, bool, bool]

#: Who a file is: number, generation, time of birth, type. As in a restore, either of generation and
#: birth may stay.
Identity = tuple[int, int, int, int]


@dataclass(frozen=True)
class Found:
    """One path of a tree, with all that counts."""

    path: bytes
    identity: Identity
    data: Any
    attributes: Any
    mtime: int | None  # of a directory, none

    @property
    def kind(self) -> int:
        return self.identity[3]


Listing = dict[bytes, dict[bytes, Found]]  # directory path -> name -> what is there
Tree = tuple[Found, Listing]  # the directory that is the root, or is compared, and what lies in it


def walk(fs: Filesystem, view: View, call: Callable[..., Any]) -> Tree:
    """Everything in a view: its root, and what is in each directory."""

    def found(ino: int, path: bytes) -> Found:
        inode = call(fs.inode, view, ino)
        kind = stat.S_IFMT(inode.mode)
        data: Any = None
        if kind == stat.S_IFREG:
            data = call(fs.read, view, ino, 0, inode.size)
        elif kind == stat.S_IFLNK:
            data = call(fs.readlink, view, ino)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            data = inode.rdev
        extended = {
            name: call(fs.xattr_get, view, ino, name) for name in call(fs.xattr_list, view, ino)
        }
        attributes = inode.mode, inode.uid, inode.gid, extended
        mtime = None if kind == stat.S_IFDIR else inode.mtime
        return Found(path, (ino, inode.generation, inode.btime, kind), data, attributes, mtime)

    root = found(ROOT_INO, b"")
    listing: Listing = {}
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        names = listing[directory.path] = {}
        after = 0
        while some := call(fs.entries, view, directory.identity[0], after, 1000):
            for entry in some:
                path = directory.path + b"/" + entry.name if directory.path else entry.name
                names[entry.name] = found(entry.ino, path)
                if names[entry.name].kind == stat.S_IFDIR:
                    waiting.append(names[entry.name])
            after = some[-1].cookie
    return root, listing


def same(one: Identity, other: Identity) -> bool:
    return (
        one[0] == other[0]
        and one[3] == other[3]
        and (one[0] == ROOT_INO or one[1] == other[1] or one[2] == other[2])
    )


def chosen(old: Tree, new: Tree, old_top: int, new_top: int) -> tuple[Tree | None, Tree | None]:
    """The parts of two trees that are compared: the smaller one of the directories that they are
    of. Raises ``UsageError``.
    """
    if old_top == new_top == ROOT_INO:
        return old, new
    for tree, top, other, other_top, turned in (
        (new, new_top, old, old_top, True),
        (old, old_top, new, new_top, False),
    ):
        if top == ROOT_INO:
            continue
        (directory,) = (found for found in directories(*tree) if found.identity[0] == top)
        inner = part(tree, directory)
        allowed = part(
            other, next(found for found in directories(*other) if found.identity[0] == other_top)
        )
        found = next(
            (found for found in directories(*other) if same(found.identity, directory.identity)),
            None,
        )
        if found is None:
            at = next(
                (found for found in directories(*other) if found.path == directory.path), None
            )
            lives = at is not None and any(
                same(at.identity, one.identity) for one in directories(*inner)
            )
            found = None if lives else at
        if found is None and other_top != ROOT_INO:
            continue
        if found is None or any(one.path == found.path for one in directories(*allowed)):
            outer = part(other, found) if found else None
            return (outer, inner) if turned else (inner, outer)
    raise UsageError


def part(tree: Tree, top: Found) -> Tree:
    inside = {
        path: names
        for path, names in tree[1].items()
        if not top.path or path == top.path or path.startswith(top.path + b"/")
    }
    return top, inside


def expected(old: Tree | None, new: Tree | None) -> set[Row]:
    """Directories that both trees have are one place, wherever they are; so are those that stand
    under one name in one place.
    """
    rows: set[Row] = set()
    olds, news = (
        {found.identity[0]: found for found in directories(*tree)} if tree else {}
        for tree in (old, new)
    )
    living = {ino for ino in olds if ino in news and same(olds[ino].identity, news[ino].identity)}
    left, right = table(old, living), table(new, living)
    for ino in living:
        one, other = olds[ino], news[ino]
        assert old is not None
        assert new is not None
        rows |= row(
            "renamed" if one.path != other.path and moved(ino, old, new) else "changed", one, other
        )
    gone: list[Found] = []
    come: list[Found] = []
    for place in left.keys() | right.keys():
        before, after = left.get(place), right.get(place)
        if before is None or after is None:
            gone += [before] if before else []
            come += [after] if after else []
        elif before.kind != after.kind:
            rows |= {("retyped", before.path, after.path, False, False)}
        else:
            rows |= row("changed", before, after)
    for key in {found.identity[0] for found in gone if found.kind != stat.S_IFDIR}:
        one_gone = sorted(
            (found for found in gone if found.identity[0] == key and found.kind != stat.S_IFDIR),
            key=lambda found: found.path,
        )
        one_come = sorted(
            (found for found in come if same(found.identity, one_gone[0].identity)),
            key=lambda found: found.path,
        )
        for before, after in zip(one_gone, one_come, strict=False):
            rows |= row("renamed", before, after)
            gone.remove(before)
            come.remove(after)
    rows |= {("removed", found.path or b".", None, False, False) for found in gone}
    rows |= {("added", None, found.path or b".", False, False) for found in come}
    return rows


def table(tree: Tree | None, living: set[int]) -> dict[Any, Found]:
    """What is at each place, but the directories that live on."""
    if tree is None:
        return {}
    root, listing = tree
    out: dict[Any, Found] = {} if root.identity[0] in living else {"top": root}
    places: dict[bytes, Any] = {
        root.path: root.identity[0] if root.identity[0] in living else "top"
    }
    for path in sorted(listing, key=lambda one: (one.count(b"/") + bool(one), one)):
        for name, found in listing[path].items():
            place = places[path], name
            if found.kind == stat.S_IFDIR and found.identity[0] in living:
                places[found.path] = found.identity[0]
            else:
                out[place] = found
                if found.kind == stat.S_IFDIR:
                    places[found.path] = place
    return out


def directories(root: Found, listing: Listing) -> list[Found]:
    return [
        root,
        *(
            found
            for names in listing.values()
            for found in names.values()
            if found.kind == stat.S_IFDIR
        ),
    ]


def moved(ino: int, *trees: Tree) -> bool:
    """Has a directory another name, or another directory above it?"""
    ends = []
    for (root, listing), directory in (
        (tree, next(one for one in directories(*tree) if one.identity[0] == ino)) for tree in trees
    ):
        if directory is root:
            return True  # the part that is compared has another path
        path, _, name = directory.path.rpartition(b"/")
        parent = next(one for one in directories(root, listing) if one.path == path)
        ends.append((parent.identity[0], name))
    return ends[0] != ends[1]


def row(kind: str, before: Found, after: Found) -> set[Row]:
    data = before.data != after.data
    change = (
        data,
        before.attributes != after.attributes or (not data and before.mtime != after.mtime),
    )
    return (
        {(kind, before.path or b".", after.path or b".", *change)}
        if kind == "renamed" or any(change)
        else set()
    )


# What is compared with it


def run(
    volume: Volume, diff: Diff, between: Callable[[], object] = lambda: None
) -> list[Difference]:
    """All that a comparison finds."""
    return drive_steps(volume, diff.steps(), between)


def drive_steps(
    volume: Volume, steps: Any, between: Callable[[], object] = lambda: None
) -> list[Any]:
    """All that ``steps`` yields but blocks to be fetched; ``between`` is called where others may
    have their turn.
    """
    out: list[Any] = []
    try:
        step = next(steps)
        while True:
            between()
            if not isinstance(step, list):
                out.append(step)
                step = next(steps)
                continue
            try:
                volume.admit(volume.read_wants(step))
            except CorruptBlock as exc:
                step = steps.throw(exc)
            else:
                step = next(steps)
    except StopIteration:
        return out


def rows(found: list[Difference]) -> list[Row]:
    return [
        (one.kind.value, one.old_path, one.path, one.change.data, one.change.attributes)
        for one in found
    ]


def top_of(one: State) -> int:
    """The directory that a state with one part is of."""
    (ino,) = [part.ino for part in one.parts] or [ROOT_INO]
    return ino


def state(fs: Filesystem, view: View) -> State:
    return State(view.instance.root, view.instance) if view.instance else State(fs.volume.base_root)

"""What holds in the views of all snapshots: who may change them, and what is kept of files whose
privileges are hidden. Without a mount.
"""

from __future__ import annotations

from typing import Any

import pytest

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.errors import ReadOnly, SnapshotBusy
from snapfs.filesystem import Changes, Filesystem, View
from snapfs.filesystem.format import format_volume
from snapfs.filesystem.xattrs import CAPABILITY
from snapfs.ids import ROOT_INO
from snapfs.snapshots import Facts, autodelete
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

PROGRAM = 0o100000 | 0o6755
CONTENT = b"program" * 3000


class Tree:
    """A volume in which a program with many attributes is in a snapshot; opened anew, so that
    nothing of it is in memory.
    """

    def __init__(self) -> None:
        self.device = SparseDevice(16 << 20)
        format_volume(self.device)
        fs = Filesystem(open_volume(self.device))
        self.ino: int = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"program", PROGRAM, 0, 0).ino
        drive(fs.volume, fs.write, fs.base, self.ino, 0, CONTENT)
        for number in range(20):
            drive(fs.volume, fs.xattr_set, fs.base, self.ino, b"user.%d" % number, b"v" * 1000)
        drive(fs.volume, fs.xattr_set, fs.base, self.ino, CAPABILITY, b"c" * 20)
        drive(fs.volume, snapshots.create, fs, "s")
        commit(fs.volume)
        self.open()

    def open(self) -> None:
        self.fs = Filesystem(open_volume(self.device))
        self.fs.rules.set_id = False

    @property
    def view(self) -> View:
        return self.fs.view(snapshots.get(self.fs, "s").id)

    def do(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return drive(self.fs.volume, function, *args, **kwargs)

    def privileges(self, view: View) -> tuple[int, bool]:
        return self.do(self.fs.inode, view, self.ino).mode, CAPABILITY in self.do(
            self.fs.xattr_list, view, self.ino
        )


CHANGES = {
    "write": lambda tree: tree.do(tree.fs.write, tree.view, tree.ino, 5000, b"else"),
    "size": lambda tree: tree.do(
        tree.fs.set_attributes, tree.view, tree.ino, Changes(size=5000), privileged=True
    ),
    "owner": lambda tree: tree.do(
        tree.fs.set_attributes, tree.view, tree.ino, Changes(uid=5), privileged=True
    ),
    "group": lambda tree: tree.do(
        tree.fs.set_attributes, tree.view, tree.ino, Changes(gid=5), privileged=True
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_program_keeps_privileges_that_nobody_was_shown(change: str) -> None:
    tree = Tree()
    CHANGES[change](tree)
    commit(tree.fs.volume)
    tree.open()
    assert tree.privileges(tree.view) == (PROGRAM & ~0o6000, False)
    assert tree.privileges(tree.fs.base) == (PROGRAM, True), "in the live tree it is what it was"
    assert len(tree.do(tree.fs.xattr_list, tree.view, tree.ino)) == 20
    assert not check_volume(tree.device)


def test_other_changes_lose_privileges_that_nobody_was_shown() -> None:
    tree = Tree()
    mode = Changes(mode=0o775)
    for view in (tree.view, tree.fs.base):
        tree.do(tree.fs.set_attributes, view, tree.ino, mode, privileged=True)
        tree.do(tree.fs.set_attributes, view, tree.ino, Changes(atime=1, mtime=2), privileged=False)
        tree.do(tree.fs.xattr_set, view, tree.ino, b"user.new", b"")
        tree.do(tree.fs.link, view, tree.ino, ROOT_INO, b"linked")
    assert tree.privileges(tree.view) == (0o100000 | 0o6775, True)
    assert tree.privileges(tree.fs.base) == (0o100000 | 0o775, True)


def test_shown_privileges_are_kept_or_lost_as_in_the_live_tree() -> None:
    tree = Tree()
    tree.fs.rules.set_id = True
    for view in (tree.view, tree.fs.base):
        tree.do(tree.fs.write, view, tree.ino, 0, b"else")
        assert tree.privileges(view) == (PROGRAM, True)
        tree.do(tree.fs.set_attributes, view, tree.ino, Changes(mode=0o775), privileged=True)
        assert tree.privileges(view) == (0o100000 | 0o775, True)


def test_snapshots_that_are_read_only_are_changed() -> None:
    tree = Tree()
    tree.fs.rules.read_only = True
    view = tree.view
    for change in CHANGES.values():
        with pytest.raises(ReadOnly, match="snapro"):
            change(tree)
    for function, *args in (
        (tree.fs.make, ROOT_INO, b"new", 0o100644, 0, 0),
        (tree.fs.unlink, ROOT_INO, b"program"),
        (tree.fs.link, tree.ino, ROOT_INO, b"linked"),
        (tree.fs.rename, ROOT_INO, b"program", ROOT_INO, b"renamed"),
        (tree.fs.xattr_set, tree.ino, b"user.x", b""),
        (tree.fs.xattr_remove, tree.ino, b"user.1"),
        (tree.fs.set_attributes, tree.ino, Changes(mode=0o600)),
    ):
        extra = {"privileged": True} if function == tree.fs.set_attributes else {}
        with pytest.raises(ReadOnly, match="snapro"):
            tree.do(function, view, *args, **extra)
    assert not view.writable
    tree.do(tree.fs.write, tree.fs.base, tree.ino, 0, b"else")
    tree.do(snapshots.rename, tree.fs, "s", "t")
    tree.do(snapshots.create, tree.fs, "of t", origin=view.id)
    commit(tree.fs.volume)
    tree.do(snapshots.restore, tree.fs, "of t")
    tree.do(snapshots.delete, tree.fs, "t")


def test_a_snapshot_with_a_mount_of_its_own_is_changed_or_deleted() -> None:
    tree = Tree()
    view = tree.view
    tree.do(snapshots.create, tree.fs, "t", facts=Facts(tags={"policy": "hourly"}))
    commit(tree.fs.volume)
    policys = snapshots.get(tree.fs, "t")
    tree.fs.rules.fixed.update([view.id, policys.id])
    for change in CHANGES.values():
        with pytest.raises(ReadOnly, match="mount of its own"):
            change(tree)
    with pytest.raises(SnapshotBusy, match="'s' is mounted"):
        tree.do(snapshots.delete, tree.fs, "s")
    (refused,) = tree.do(snapshots.delete_set, tree.fs, ["s"]).refused.values()
    assert isinstance(refused, SnapshotBusy)
    found = tree.do(snapshots.find_places, tree.fs, "s", [b"program"])
    assert isinstance(found.refusal, SnapshotBusy)
    with pytest.raises(SnapshotBusy):
        tree.do(snapshots.take_out, tree.fs, found.places)
    assert autodelete.candidates(tree.fs) == []
    tree.do(snapshots.restore, tree.fs, "s")
    del tree.fs.rules.fixed[policys.id], tree.fs.rules.fixed[view.id]
    assert autodelete.candidates(tree.fs) == [policys]
    tree.do(snapshots.delete, tree.fs, "s")

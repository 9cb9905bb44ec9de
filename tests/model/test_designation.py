"""Designated directories: a policy's snapshot covers what was designated, and what has come below
it since (C8).
"""

from __future__ import annotations

import random
import stat
from collections.abc import Callable
from typing import Any

import pytest

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.errors import InvalidArgument, NoAttribute, NotFound, NotSupported, UsageError
from snapfs.filesystem import Filesystem, View
from snapfs.filesystem.designation import NAME
from snapfs.filesystem.format import format_volume
from snapfs.ids import DESIGNATED_INO, ROOT_INO
from snapfs.snapshots import Designated
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice
from tests.model.brute_force import verify
from tests.model.world import World

FILE, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755


class Tree:
    """A volume with the directories ``/a/b`` and ``/c``, and a file in each."""

    def __init__(self) -> None:
        self.device = SparseDevice(2048 * 4096)
        format_volume(self.device)
        self.open()
        for path in ("a", "a/b", "c"):
            self.make(path, DIRECTORY)
            self.make(f"{path}/file", FILE)

    def open(self) -> None:
        self.volume = open_volume(self.device)
        self.fs = Filesystem(self.volume)

    def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return drive(self.volume, function, *args, **kwargs)

    def find(self, path: str, view: View | None = None) -> int:
        ino = ROOT_INO
        for name in path.split("/") if path else []:
            ino = self.do(self.fs.lookup, view or self.fs.base, ino, name.encode()).ino
        return ino

    def make(self, path: str, mode: int, view: View | None = None) -> int:
        parent, _, name = path.rpartition("/")
        made: int = self.do(
            self.fs.make, view or self.fs.base, self.find(parent, view), name.encode(), mode, 0, 0
        ).ino
        return made

    def rename(self, path: str, new: str) -> None:
        (parent, _, name), (to, _, new_name) = path.rpartition("/"), new.rpartition("/")
        self.do(
            self.fs.rename,
            self.fs.base,
            self.find(parent),
            name.encode(),
            self.find(to),
            new_name.encode(),
            0,
        )

    def rmdir(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        self.do(self.fs.rmdir, self.fs.base, self.find(parent), name.encode())

    def designate(self, path: str, policy: bytes = b"nightly", view: View | None = None) -> None:
        self.do(self.fs.xattr_set, view or self.fs.base, self.find(path, view), NAME, policy)

    def policy(self, path: str, view: View | None = None) -> bytes | None:
        try:
            value: bytes = self.do(
                self.fs.xattr_get, view or self.fs.base, self.find(path, view), NAME
            )
        except NoAttribute:
            return None
        return value

    def snapshot(self, name: str, policy: str = "nightly") -> list[str]:
        paths = self.do(snapshots.create, self.fs, name, targets=[Designated(policy)]).paths
        commit(self.volume)
        return sorted(paths)

    def covered(self, policy: str = "nightly") -> list[str]:
        """What a snapshot of the policy would be of now; empty for none."""
        name = f"probe {self.volume.epoch} {policy}"
        try:
            paths = self.snapshot(name, policy)
        except NotFound:
            return []
        self.do(snapshots.delete, self.fs, name)
        return paths

    def prove(self) -> None:
        commit(self.volume)
        assert [finding.message() for finding in check_volume(self.device)] == []
        verify(self.fs)


@pytest.fixture
def tree() -> Tree:
    return Tree()


def test_what_comes_below_later_is_not_designated(tree: Tree) -> None:
    """C8: inherited by what is created below it, and by what is moved there; shown where it was set
    only.
    """
    assert tree.policy("a/b/file") is None
    tree.designate("a")
    tree.make("a/b/new", DIRECTORY)
    tree.make("a/b/new/file", FILE)
    tree.rename("c/file", "a/b/moved")
    for path in ("a", "a/b", "a/file", "a/b/new", "a/b/new/file", "a/b/moved"):
        assert tree.policy(path) == b"nightly"
        assert tree.do(tree.fs.xattr_list, tree.fs.base, tree.find(path)) == (
            [NAME] if path == "a" else []
        )
    assert tree.policy("c") is tree.policy("") is None
    tree.designate("a/b", b"weekly")
    assert (tree.policy("a/b/new/file"), tree.policy("a/file")) == (b"weekly", b"nightly")
    tree.rename("a/b/new", "c/new")
    assert tree.policy("c/new/file") is None
    tree.prove()


def test_a_policy_covers_what_is_not_designated(tree: Tree) -> None:
    """C8: the parts are what is designated at that moment, with this policy; within another one, it
    is one with it.
    """
    assert tree.covered() == []
    with pytest.raises(
        NotFound, match=r"'nightly': set the extended attribute user\.snapfs\.designate"
    ):
        tree.snapshot("none")
    tree.designate("a/b")
    tree.designate("c")
    assert tree.covered() == ["/a/b", "/c"]
    tree.designate("a")
    assert tree.covered() == ["/a", "/c"]
    tree.designate("c", b"weekly")
    assert (tree.covered(), tree.covered("weekly")) == (["/a"], ["/c"])
    tree.designate("")
    assert tree.covered() == ["/"]
    tree.do(tree.fs.xattr_remove, tree.fs.base, ROOT_INO, NAME)
    tree.do(tree.fs.xattr_remove, tree.fs.base, tree.find("a"), NAME)
    assert tree.covered() == ["/a/b"]
    tree.prove()
    tree.open()
    assert (tree.covered(), tree.covered("weekly")) == (["/a/b"], ["/c"])


def test_a_directory_that_is_gone_stays_designated(tree: Tree) -> None:
    """C8: removed, replaced, moved, its number used again, removed while somebody has it open."""
    for name in ("x", "y", "z"):
        tree.make(name, DIRECTORY)
        tree.designate(name)
    tree.rename("x", "a/x")
    assert tree.covered() == ["/a/x", "/y", "/z"]
    number = tree.find("y")
    tree.rmdir("y")
    assert tree.make("new", DIRECTORY) == number
    assert tree.covered() == ["/a/x", "/z"]
    tree.rename("new", "z")
    assert tree.covered() == ["/a/x"]
    number = tree.find("a/x")
    tree.fs.hold(tree.fs.base, number)
    tree.rmdir("a/x")
    tree.do(tree.fs.xattr_set, tree.fs.base, number, NAME, b"weekly")
    assert (tree.covered(), tree.covered("weekly")) == ([], [])
    tree.prove()
    tree.fs.forget(tree.fs.base, number)
    tree.prove()


def test_a_restore_leaves_the_designations_of_before(tree: Tree) -> None:
    """C8, A10: going back brings back what was designated then; the undo, what was until now."""
    tree.designate("a")
    tree.do(snapshots.create, tree.fs, "then")
    commit(tree.volume)
    tree.do(tree.fs.xattr_remove, tree.fs.base, tree.find("a"), NAME)
    tree.designate("c")
    commit(tree.volume)
    undo = tree.do(snapshots.restore, tree.fs, "then").undo
    assert tree.covered() == ["/a"]
    tree.prove()
    tree.do(snapshots.restore, tree.fs, undo.name)
    assert tree.covered() == ["/c"]
    tree.prove()


def test_a_path_that_is_brought_back_is_not_designated(tree: Tree) -> None:
    """C8, C7: with its attributes it is on the list again, and what it replaces is not; also what
    is made again above it.
    """
    tree.designate("a")
    tree.designate("a/b")
    tree.do(snapshots.create, tree.fs, "then")
    commit(tree.volume)
    tree.do(tree.fs.unlink, tree.fs.base, tree.find("a/b"), b"file")
    tree.rmdir("a/b")
    tree.make("a/b", DIRECTORY)
    assert tree.covered() == ["/a"]
    tree.do(tree.fs.xattr_remove, tree.fs.base, tree.find("a"), NAME)
    for name in ("a/new", "c/new"):
        tree.make(name, DIRECTORY)
        tree.designate(name, b"weekly")
    tree.do(snapshots.restore, tree.fs, "then", paths=["/a/b"])
    assert (tree.covered(), tree.covered("weekly")) == (["/a/b"], ["/a/new", "/c/new"])
    tree.prove()
    undo = tree.do(snapshots.restore, tree.fs, "then", paths=["/a"]).undo
    assert (tree.covered(), tree.covered("weekly")) == (["/a"], ["/c/new"])
    tree.prove()
    tree.do(snapshots.restore, tree.fs, undo.name)
    assert (tree.covered(), tree.covered("weekly")) == (["/a/b"], ["/a/new", "/c/new"])
    tree.prove()


def test_the_first_designation_that_is_brought_back_has_no_list(tree: Tree) -> None:
    """C8, C7: the base has never had one, the snapshot was written."""
    tree.do(snapshots.create, tree.fs, "one")
    commit(tree.volume)
    one = tree.fs.view(snapshots.get(tree.fs, "one").id)
    tree.designate("a/b", view=one)
    tree.designate("a", view=one)
    tree.do(snapshots.restore, tree.fs, "one", paths=["/a/b"])
    assert tree.covered() == ["/a/b"]
    tree.prove()
    tree.rename("a", "moved")
    commit(tree.volume)
    tree.do(snapshots.restore, tree.fs, "one", paths=["/a/b/file"])
    assert tree.covered() == ["/a", "/moved/b"]
    tree.prove()


def test_what_is_purged_stays_designated(tree: Tree) -> None:
    """C8: with all that is below it, from the moment at which its name goes; in that snapshot, and
    nowhere else.
    """
    for path in ("a", "a/b", "c"):
        tree.designate(path)
    one = tree.do(snapshots.create, tree.fs, "one")
    commit(tree.volume)
    found = tree.do(snapshots.find_places, tree.fs, "one", [b"a"])
    tree.do(snapshots.take_out, tree.fs, found.places)
    commit(tree.volume)
    paths = tree.do(
        snapshots.create, tree.fs, "of one", origin=one.id, targets=[Designated("nightly")]
    ).paths
    assert (paths, tree.covered()) == (["/c"], ["/a", "/c"])
    tree.prove()
    assert [
        inode.ino for inode in tree.do(tree.fs.designations.of, tree.fs.view(one.id), b"nightly")
    ] == [tree.find("c")]


def test_designating_in_a_snapshot_changes_the_policy(tree: Tree) -> None:
    """C8: it is another tree; what is designated in it counts for snapshots of it, and when it is
    gone back to.
    """
    tree.designate("c")
    tree.do(snapshots.create, tree.fs, "one")
    part = tree.do(snapshots.create, tree.fs, "part", targets=[tree.find("a")])
    commit(tree.volume)
    one = tree.fs.view(snapshots.get(tree.fs, "one").id)
    tree.designate("a", view=one)
    tree.designate("a/b", view=tree.fs.view(part.id))
    assert (tree.covered(), tree.policy("a")) == (["/c"], None)
    for name, paths in (("one", ["/a", "/c"]), ("part", ["/a/b"])):
        origin = snapshots.get(tree.fs, name).id
        assert (
            sorted(
                tree.do(
                    snapshots.create,
                    tree.fs,
                    f"of {name}",
                    origin=origin,
                    targets=[Designated("nightly")],
                ).paths
            )
            == paths
        )
    tree.prove()
    tree.do(snapshots.restore, tree.fs, "one")
    assert tree.covered() == ["/a", "/c"]
    tree.prove()


def test_a_designation_that_means_nothing_is_taken(tree: Tree) -> None:
    """C8: of files, and with what is no policy's name."""
    with pytest.raises(NotSupported, match="designates directories"):
        tree.designate("a/file")
    for value in (b"", b"a/b", b".hidden", b"new\nline", b"\xff", b"x" * 65):
        with pytest.raises(InvalidArgument):
            tree.designate("a", value)
    with pytest.raises(NoAttribute):
        tree.do(tree.fs.xattr_remove, tree.fs.base, tree.find("a"), NAME)
    tree.designate("c")
    with pytest.raises(NoAttribute):
        tree.do(tree.fs.xattr_remove, tree.fs.base, tree.find("c/file"), NAME)
    tree.designate("a", b"x" * 64)
    assert tree.covered("x" * 64) == ["/a"]
    tree.prove()


def test_more_is_designated_than_a_snapshot_can_cover(tree: Tree) -> None:
    for number in range(129):
        tree.make(f"c/{number}", DIRECTORY)
        tree.designate(f"c/{number}")
    with pytest.raises(UsageError, match="paths at most"):
        tree.snapshot("many")
    tree.designate("c")
    assert tree.covered() == ["/c"]
    tree.prove()


def test_who_designates_nothing_pays(tree: Tree) -> None:
    """I9, I10: the list is not there before the first designation, and takes no block after the
    last.
    """
    commit(tree.volume)
    free, count = tree.volume.allocator.free, tree.fs.base.inodes
    tree.designate("a")
    commit(tree.volume)
    assert (tree.volume.allocator.free, tree.fs.base.inodes) == (free - 1, count + 1)
    tree.do(tree.fs.xattr_remove, tree.fs.base, tree.find("a"), NAME)
    tree.prove()
    assert tree.volume.allocator.free == free
    assert tree.fs.base.inode(DESIGNATED_INO).names.is_empty()


def test_a_snapshot_of_a_policy_looks_at_what_it_covers() -> None:
    """C3, C8: as many blocks are read for a policy of large directories as
    for one of small ones.
    """
    costs = []
    for count in (10, 3000):
        tree = Tree()
        for number in range(count):
            tree.make(f"a/b/{number}", FILE)
            if number % 500 == 0:
                commit(tree.volume)
        tree.designate("a")
        commit(tree.volume)
        tree.open()
        before = tree.volume.blocks_read
        tree.snapshot("one")
        costs.append(tree.volume.blocks_read - before)
    assert costs[1] <= costs[0] + 2, costs


@pytest.mark.parametrize("seed", range(10))
def test_a_random_life_breaks_a_designation(seed: int) -> None:
    """C8, I3, I6: with restores, crashes, renames, numbers used again, and
    snapshots of policies.
    """
    rnd = random.Random(3000 + seed)
    world = World(4096, 2048, parts=True, several=seed % 2 == 1, policies=True)
    for step in range(120):
        world.step(rnd)
        if step % 30 == 29:
            world.prove()
    world.finish()


def test_a_designation_follows_a_directory_that_a_file_has_left(tree: Tree) -> None:
    """C8: that is gone, or has a number that another has by now; the names that it still has count,
    as far as they are known.
    """

    def asked(ino: int, *known_as: tuple[int, bytes]) -> bytes | None:
        try:
            value: bytes = tree.do(tree.fs.xattr_get, tree.fs.base, ino, NAME, known_as=known_as)
        except NoAttribute:
            return None
        return value

    tree.designate("a")
    tree.designate("c", b"weekly")
    ino, made_in, other = tree.find("a/b/file"), tree.find("a/b"), tree.find("c")
    for parent, name in ((made_in, b"again"), (ROOT_INO, b"top"), (other, b"linked")):
        tree.do(tree.fs.link, tree.fs.base, ino, parent, name)
    tree.do(tree.fs.unlink, tree.fs.base, made_in, b"file")
    assert asked(ino) == asked(ino, (other, b"linked")) == b"nightly", (
        "it still has a name where it was made"
    )
    tree.do(tree.fs.unlink, tree.fs.base, made_in, b"again")
    for _ in range(2):
        assert asked(ino) is None
        assert asked(ino, (ROOT_INO, b"top"), (made_in, b"file")) is None
        assert (
            asked(
                ino,
                (ROOT_INO, b"top"),
                (other, b"gone"),
                (ROOT_INO, b"c"),
                (ino, b"file"),
                (1 << 40, b"file"),
            )
            is None
        )
        assert asked(ino, (other, b"linked"), (made_in, b"again")) == b"weekly"
        tree.rmdir("a/b")
        commit(tree.volume)
        assert asked(ino) is None
        assert tree.make("a/b", DIRECTORY) == made_in, "or the test proves nothing"
    tree.designate("", b"all")
    assert asked(ino) == b"all", "whatever its name is, it lies below the root"
    tree.do(tree.fs.xattr_remove, tree.fs.base, ROOT_INO, NAME)
    tree.rename("top", "a/b/moved")
    assert asked(ino) == b"nightly"
    unlinked = tree.find("a/file")
    tree.do(tree.fs.hold, tree.fs.base, unlinked)
    tree.do(tree.fs.unlink, tree.fs.base, tree.find("a"), b"file")
    assert asked(unlinked) is None, "nothing covers what has no name"
    tree.do(tree.fs.forget, tree.fs.base, unlinked)
    tree.prove()

"""Purging in the core: what goes, what stays, what it frees, and that it goes on after a crash. The
model's rule is ``World.purge``.
"""

from __future__ import annotations

import random
import stat
from collections.abc import Iterable
from unittest import mock

import pytest

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.errors import (
    NoSpace,
    NotPermitted,
    ReadOnly,
    SnapshotHeld,
    UsageError,
)
from snapfs.filesystem import Filesystem, View
from snapfs.filesystem.format import format_volume
from snapfs.filesystem.orphans import orphans
from snapfs.ids import ROOT_INO
from snapfs.interrupts import CommitNeeded
from snapfs.snapshots import (
    Hold,
    NamesInSnapshot,
    PurgeSpace,
)
from snapfs.snapshots.purge import space as purge_space
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice
from tests.model import brute_force
from tests.model.world import World

FILE, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
BLOCK = 4096


class Volumes:
    """A volume with ``/secret`` and the tree ``/d``, and the snapshots ``one``, ``two`` and
    ``three``, of which each has another secret.
    """

    def __init__(self, blocks: int = 4096) -> None:
        self.device = SparseDevice(blocks * BLOCK)
        format_volume(self.device)
        self.open()
        self.make("d", DIRECTORY)
        self.make("d/deep", DIRECTORY)
        for number in range(5):
            self.write(self.make(f"d/file{number}", FILE), b"f" * 5000)
        self.write(self.make("d/deep/large", FILE), b"l" * 300_000)
        secret = self.make("secret", FILE)
        for name in ("one", "two", "three"):
            self.write(secret, name.encode() * 500)
            self.snapshot(name)

    def open(self) -> None:
        self.volume = open_volume(self.device)
        self.fs = Filesystem(self.volume)

    def do(self, function, *args, **kwargs):
        return drive(self.volume, function, *args, **kwargs)

    def find(self, path: str, view: View | None = None) -> int:
        view, ino = view or self.fs.base, ROOT_INO
        for name in path.split("/") if path else []:
            ino = self.do(self.fs.lookup, view, ino, name.encode()).ino
        return ino

    def make(self, path: str, mode: int, view: View | None = None) -> int:
        view = view or self.fs.base
        above, _, name = path.rpartition("/")
        return self.do(self.fs.make, view, self.find(above, view), name.encode(), mode, 0, 0).ino

    def write(self, ino: int, data: bytes, view: View | None = None) -> None:
        self.do(self.fs.write, view or self.fs.base, ino, 0, data)

    def unlink(self, path: str, view: View | None = None) -> None:
        view = view or self.fs.base
        above, _, name = path.rpartition("/")
        self.do(self.fs.unlink, view, self.find(above, view), name.encode())

    def remove(self, path: str) -> None:
        """From the present, with all that is in it."""
        above, _, name = path.rpartition("/")
        ino = self.find(path)
        if self.do(self.fs.inode, self.fs.base, ino).is_directory:
            for below in self.names(path):
                self.remove(f"{path}/{below}")
            self.do(self.fs.rmdir, self.fs.base, self.find(above), name.encode())
        else:
            self.unlink(path)

    def names(self, path: str = "", view: View | None = None) -> list[str]:
        view = view or self.fs.base
        return sorted(
            entry.name.decode()
            for entry in self.do(self.fs.entries, view, self.find(path, view), 0, 1 << 20)
        )

    def snapshot(self, name: str, **more) -> None:
        self.do(snapshots.create, self.fs, name, **more)
        commit(self.volume)

    def view(self, name: str) -> View:
        return self.fs.view(snapshots.get(self.fs, name).id)

    def look(self, paths: Iterable[str], *names: str, **more) -> list[NamesInSnapshot]:
        wanted = snapshots.check_paths(path.encode() for path in paths)
        return [self.do(snapshots.find_places, self.fs, name, wanted, **more) for name in names]

    def purge(self, path: str, *names: str) -> int:
        """Purge; how many snapshots had it."""
        found = self.look([path], *names)
        assert not any(one.refusal for one in found)
        done = self.do(
            snapshots.take_out, self.fs, [place for one in found for place in one.places]
        )
        commit(self.volume)
        return len(done)

    def work(self) -> None:
        while self.do(self.fs.work):
            pass
        commit(self.volume)

    def check(self) -> None:
        self.work()
        brute_force.verify(self.fs)
        found = check_volume(self.device)
        assert not found, [one.message() for one in found]


@pytest.fixture
def volume() -> Volumes:
    return Volumes()


def space_of(fs: Filesystem, found: list[NamesInSnapshot]) -> PurgeSpace:
    """The figure, as ``control.commands.purging`` finds it."""
    space = PurgeSpace(fs, found)
    for step in space.steps():
        if isinstance(step, list) and step:
            fs.volume.admit(fs.volume.read_wants(step))
    return space


# --- what goes, and what stays ---


def test_the_present_or_another_snapshot_loses_what_was_purged(volume: Volumes) -> None:
    assert volume.purge("secret", "one", "three") == 2
    assert volume.names() == ["d", "secret"]
    assert [volume.names("", volume.view(name)) for name in ("one", "two", "three")] == [
        ["d"],
        ["d", "secret"],
        ["d"],
    ]
    assert volume.purge("d", "one") == 1
    assert volume.names("", volume.view("one")) == []
    assert volume.names("d/deep") == volume.names("d/deep", volume.view("two")) == ["large"]
    volume.check()
    assert (
        volume.do(volume.fs.read, volume.fs.base, volume.find("d/deep/large"), 0, 1 << 20)
        == b"l" * 300_000
    )


def test_a_path_is_gone_from_some_snapshots_only_after_a_crash(volume: Volumes) -> None:
    """All of it, or nothing of it, has happened."""
    names = ("one", "two", "three")
    found = volume.look(["secret"], *names)
    volume.do(snapshots.take_out, volume.fs, [place for one in found for place in one.places])
    volume.open()  # nothing of that was durable
    assert all("secret" in volume.names("", volume.view(name)) for name in names)
    generation = volume.volume.generation
    volume.purge("secret", *names)
    assert volume.volume.generation == generation + 1
    volume.open()
    assert not any("secret" in volume.names("", volume.view(name)) for name in names)
    volume.check()


def test_times_of_the_past_change(volume: Volumes) -> None:
    """The directory that loses the name keeps its times, and counts one subdirectory less."""
    before = volume.do(volume.fs.inode, volume.view("one"), ROOT_INO)
    times, links = (before.atime, before.mtime, before.ctime), before.nlink
    volume.purge("d", "one")
    after = volume.do(volume.fs.inode, volume.view("one"), ROOT_INO)
    assert (after.atime, after.mtime, after.ctime) == times
    assert after.nlink == links - 1
    assert snapshots.get(volume.fs, "one").changed
    assert not snapshots.get(volume.fs, "two").changed


def test_a_read_only_snapshot_cannot_be_purged(volume: Volumes) -> None:
    """It is a deletion: whoever may delete the snapshot may do that."""
    volume.do(snapshots.change_facts, volume.fs, "one", lambda facts: facts.changed(read_only=True))
    assert volume.purge("d", "one") == 1
    assert volume.names("", volume.view("one")) == ["secret"]
    with pytest.raises(ReadOnly):
        volume.unlink("secret", volume.view("one"))
    volume.check()


def test_a_snapshot_that_is_held_is_purged(volume: Volumes) -> None:
    found = volume.look(["secret"], "one", "two")
    volume.do(snapshots.change_facts, volume.fs, "one", lambda facts: facts.hold(Hold("audit")))
    (one,) = volume.look(["secret"], "one")
    assert len(one.places) == 1
    assert isinstance(one.refusal, SnapshotHeld)
    with pytest.raises(SnapshotHeld):  # held after it was looked at
        volume.do(snapshots.take_out, volume.fs, [place for each in found for place in each.places])
    assert all("secret" in volume.names("", volume.view(name)) for name in ("one", "two"))


def test_somebody_purges_what_they_may_not_delete(volume: Volumes) -> None:
    stranger = snapshots.owner_or_root(1000)
    (one,) = volume.look(["secret"], "one", permit=stranger)
    assert isinstance(one.refusal, NotPermitted)
    (one,) = volume.look(["secret"], "one")
    with pytest.raises(NotPermitted):
        volume.do(snapshots.take_out, volume.fs, one.places, permit=stranger)
    assert "secret" in volume.names("", volume.view("one"))


def test_the_whole_of_a_snapshot_is_purged(volume: Volumes) -> None:
    """What it covers, and what is above that, goes by deleting it."""
    with pytest.raises(UsageError, match="delete the snapshot"):
        volume.look([""], "one")
    with pytest.raises(UsageError, match="no path"):
        volume.look([], "one")
    volume.snapshot("part", targets=[volume.find("d/deep")])
    for path in ("d", "d/deep"):
        (one,) = volume.look([path], "part")
        assert isinstance(one.refusal, UsageError)
        assert "delete the snapshot" in str(one.refusal)
    assert not volume.look(["secret"], "part")[0].places
    assert volume.purge("d/deep/large", "part") == 1
    assert volume.names("d/deep", volume.view("part")) == []
    volume.check()


@pytest.mark.parametrize("path", ["nosuch", "d/nosuch", "secret/below", "d/" + "n" * 300])
def test_what_is_not_there_is_found(volume: Volumes, path: str) -> None:
    assert not any(one.places for one in volume.look([path], "one", "two", "three"))


def test_a_path_within_another_is_looked_for_twice(volume: Volumes) -> None:
    (one,) = volume.look(["d/deep/large", "d", "d/deep", "d", "secret"], "one")
    assert [place.path for place in one.places] == [b"d", b"secret"]
    volume.do(snapshots.take_out, volume.fs, one.places)
    volume.check()
    assert volume.names("", volume.view("one")) == []


def test_what_has_moved_or_gone_meanwhile_is_purged(volume: Volumes) -> None:
    (one, two, three) = volume.look(["secret"], "one", "two", "three")
    volume.unlink("secret", volume.view("one"))
    volume.make("secret", FILE, volume.view("one"))  # another file
    volume.do(snapshots.delete, volume.fs, "two")
    places = [place for found in (one, two, three) for place in found.places]
    assert volume.do(snapshots.take_out, volume.fs, places) == list(three.places)
    assert "secret" in volume.names("", volume.view("one"))
    volume.check()


def test_a_purge_is_forgotten_while_a_snapshot_of_the_snapshot_is_being_made(
    volume: Volumes,
) -> None:
    origin = snapshots.get(volume.fs, "one").id
    (one,) = volume.look(["secret"], "one")
    volume.do(snapshots.create, volume.fs, "copy", origin=origin)
    with pytest.raises(CommitNeeded):
        snapshots.take_out(volume.fs, one.places)
    volume.do(snapshots.take_out, volume.fs, one.places)
    commit(volume.volume)
    assert "secret" in volume.names("", volume.view("copy"))
    volume.check()


# --- names ---


def test_a_file_with_another_name_is_lost(volume: Volumes) -> None:
    ino = volume.find("d/deep/large")
    volume.do(volume.fs.link, volume.fs.base, ino, ROOT_INO, b"name")
    volume.do(volume.fs.link, volume.fs.base, ino, volume.find("d"), b"again")
    volume.snapshot("linked")
    volume.purge("d", "linked")
    volume.check()
    view = volume.view("linked")
    assert volume.do(volume.fs.read, view, volume.find("name", view), 0, 1 << 20) == b"l" * 300_000
    assert volume.do(volume.fs.inode, view, ino).nlink == 1
    volume.purge("name", "linked")
    volume.check()
    assert volume.names("", view) == ["secret"]


def test_two_names_of_one_file_are_purged_as_if_they_were_one(volume: Volumes) -> None:
    volume.do(volume.fs.link, volume.fs.base, volume.find("secret"), ROOT_INO, b"name")
    volume.snapshot("linked")
    (one,) = volume.look(["secret", "name"], "linked")
    assert space_of(volume.fs, [one]).blocks == 0  # the present has it
    volume.do(snapshots.take_out, volume.fs, one.places)
    volume.check()
    assert volume.names("", volume.view("linked")) == ["d"]


def test_a_wide_and_deep_tree_makes_many_orphans(volume: Volumes) -> None:
    """However many there are in a tree, few are orphans at a time: what is listed at a commit stays
    small.
    """
    above = "tree"
    volume.make(above, DIRECTORY)
    for level in range(12):
        for number in range(60):
            volume.make(f"{above}/file{number}", FILE)
            volume.make(f"{above}/dir{number}", DIRECTORY)
        above += f"/dir{level}"
    volume.snapshot("large")
    volume.purge("tree", "large")
    most = 0
    while volume.do(volume.fs.work):
        commit(volume.volume)
        most = max(most, len(volume.view("large").listed_orphans))
    assert 0 < most <= 12 * orphans.STEP_NAMES
    volume.check()
    assert volume.names("", volume.view("large")) == ["d", "secret"]


# --- interrupted ---


def interrupted(volume: Volumes, path: str, *names: str) -> None:
    """A purge of which only a little has happened in the background."""
    with mock.patch.object(orphans, "STEP_NAMES", 2), mock.patch.object(orphans, "STEPS", 1):
        volume.purge(path, *names)
        volume.do(volume.fs.work)
        commit(volume.volume)


def test_a_purge_ends_with_the_mount(volume: Volumes) -> None:
    """After a crash it goes on, and only in the snapshots where there is something to do."""
    interrupted(volume, "d", "one", "two")
    volume.open()
    assert volume.fs.has_work
    assert [one.orphans for one in snapshots.all(volume.fs)] == [True, True, False]
    assert volume.names("", volume.view("one")) == ["secret"]
    assert volume.fs.orphans.is_emptying(volume.view("one").id)
    volume.check()
    assert not any(one.orphans for one in snapshots.all(volume.fs))
    assert not volume.fs.orphans.is_emptying(volume.view("one").id)
    volume.open()
    volume.do(volume.fs.work)  # the base's list
    assert not volume.fs.has_work


def test_a_snapshot_that_is_deleted_keeps_its_orphans(volume: Volumes) -> None:
    interrupted(volume, "d", "one", "two")
    volume.do(snapshots.delete, volume.fs, "one")
    volume.check()
    interrupted(volume, "secret", "two")
    volume.open()
    volume.do(snapshots.delete, volume.fs, "two")
    volume.check()


@pytest.mark.parametrize("reopen", [False, True])
def test_a_snapshot_of_a_half_purged_one_keeps_what_was_purged(
    volume: Volumes, reopen: bool
) -> None:
    interrupted(volume, "d", "one")
    volume.snapshot("copy", origin=snapshots.get(volume.fs, "one").id)
    if reopen:
        volume.open()
    assert volume.names("", volume.view("copy")) == ["secret"]
    volume.check()
    assert (
        volume.view("copy").inodes == volume.view("one").inodes == 3
    )  # the root, the list of orphans, the secret
    assert not any(one.orphans for one in snapshots.all(volume.fs))


@pytest.mark.parametrize("reopen", [False, True])
def test_going_back_to_a_half_purged_snapshot_brings_orphans_into_the_base(
    volume: Volumes, reopen: bool
) -> None:
    interrupted(volume, "d", "one")
    if reopen:
        volume.open()
    volume.do(snapshots.restore, volume.fs, "one")
    commit(volume.volume)
    assert volume.names() == ["secret"]
    assert volume.fs.base.inodes == 3
    volume.check()


def test_what_somebody_uses_is_taken_away(volume: Volumes) -> None:
    """An open file of a purged tree can be read until it is closed; a directory that somebody is in
    is emptied all the same.
    """
    view = volume.view("one")
    large, deep = volume.find("d/deep/large", view), volume.find("d/deep", view)
    for ino in (large, deep):
        volume.fs.hold(view, ino)
    volume.purge("d", "one")
    volume.work()
    assert volume.do(volume.fs.read, view, large, 0, 1 << 20) == b"l" * 300_000
    assert volume.do(volume.fs.entries, view, deep, 0, 10) == []
    assert view.orphans == {large, deep}
    assert not volume.fs.orphans.is_busy({view.id})
    for ino in (large, deep):
        volume.fs.forget(view, ino)
    volume.check()
    assert not view.orphans


def test_an_orphan_of_a_part_outlives_its_directory_and_loses_its_blocks(volume: Volumes) -> None:
    """C2, I3: what a snapshot of a directory preserves does not depend on which of its directories
    are still there.
    """
    volume.snapshot("part", targets=[volume.find("d")])
    view = volume.view("part")
    large, deep = volume.find("d/deep/large", view), volume.find("d/deep", view)
    volume.fs.hold(view, large)
    volume.purge("d/deep", "part")
    volume.work()
    assert deep not in {
        entry.ino for entry in volume.do(volume.fs.entries, view, volume.find("d", view), 0, 100)
    }
    volume.write(large, b"n" * 300_000)  # in the present
    commit(volume.volume)
    assert volume.do(volume.fs.read, view, large, 0, 1 << 20) == b"l" * 300_000
    volume.fs.forget(view, large)
    volume.check()


def test_a_part_frees_orphans_that_lie_outside_of_it(volume: Volumes) -> None:
    """C2: a snapshot of a directory has the list of all orphans of that moment, and preserves
    nothing of those elsewhere.
    """
    volume.write(volume.make("outside", FILE), b"o" * 300_000)
    outside = volume.find("outside")
    volume.fs.hold(volume.fs.base, outside)
    volume.unlink("outside")
    commit(volume.volume)
    volume.snapshot("part", targets=[volume.find("d")])
    volume.fs.forget(volume.fs.base, outside)
    interrupted(volume, "d/deep", "part")
    volume.open()
    volume.check()
    assert not snapshots.get(volume.fs, "part").orphans


# --- space ---


def test_a_purge_frees_what_others_need_or_too_little(volume: Volumes) -> None:
    """Blocks that the present or another snapshot has stay; those of ``three`` are those of the
    present.
    """
    found = volume.look(["secret"], "one", "two", "three")
    assert [space_of(volume.fs, [one]).blocks for one in found] == [1, 1, 0]
    assert space_of(volume.fs, found).blocks == 2
    volume.unlink("secret")
    commit(volume.volume)
    assert space_of(volume.fs, found).blocks == 3
    volume.remove("d")
    volume.work()
    tree = volume.look(["d"], "one", "two", "three")
    assert space_of(volume.fs, tree[:2]).blocks == 0  # the third one has it as well
    free = volume.volume.allocator.free
    said = space_of(volume.fs, tree).blocks
    assert (
        said == 5 * 3 + (74 + 1) + 2
    )  # small files and the large one with their pointers, names of two directories
    volume.purge("d", "one", "two", "three")
    volume.work()
    assert volume.volume.allocator.free >= free + said - 3 * 4  # less the tables of each snapshot
    volume.check()


def test_an_exact_figure_takes_for_ever(volume: Volumes) -> None:
    """Of very much only a bound is told: what deleting the snapshots would free."""
    volume.remove("d")
    volume.work()
    found = volume.look(["d"], "one", "two", "three")
    exact = space_of(volume.fs, found).blocks
    with mock.patch.object(purge_space, "VISITS_MAX", 5):
        bound = space_of(volume.fs, found)
    assert not bound.exact
    assert bound.blocks == snapshots.frees(volume.fs, snapshots.all(volume.fs)) > exact


def trees_of(fs: Filesystem, found: list[NamesInSnapshot]) -> set[int]:
    """All blocks of the inodes that purging would take the last name of, found by walking."""
    out: set[int] = set()
    for one in found:
        view = fs.view(one.instance.id)
        names: dict[int, int] = {}
        stack = [place.ino for place in one.places]
        while stack:
            ino = stack.pop()
            names[ino] = names.get(ino, 0) + 1
            if drive(fs.volume, view.inode, ino).is_directory:
                stack += [
                    entry.ino for entry in drive(fs.volume, fs.entries, view, ino, 0, 1 << 30)
                ]
        for ino, count in names.items():
            inode = drive(fs.volume, view.inode, ino)
            if inode.is_directory or count == inode.nlink:
                out.update(
                    block
                    for tree in (inode.data, inode.attribute_map)
                    for block, _ in brute_force.walk(fs.volume, tree)
                )
    return out


@pytest.mark.parametrize("seed", range(60))
def test_a_purge_frees_something_else_than_was_said(seed: int) -> None:
    """E: after random histories, with snapshots of snapshots and of parts, writable ones, and
    several names.
    """
    rnd = random.Random(seed)
    world = World(4096, rnd.choice([900, 4096]), parts=seed % 2 == 0)
    for _ in range(rnd.randrange(60, 220)):
        world.step(rnd)
    while not (names := [name for name in sorted(world.snaps) if world.below(name)]):
        world.step(rnd)
    fs = world.fs
    while drive(fs.volume, fs.work):
        pass
    world.commit()
    for _ in range(3):
        ways = [
            rnd.choice(below)
            for name in (rnd.choice(names), rnd.choice(names))
            if (below := world.below(name))
        ]
        if not ways:
            continue
        chosen = rnd.sample(names, rnd.randint(1, len(names)))
        paths = snapshots.check_paths(b"/".join(way) for way in ways)
        found = [drive(fs.volume, snapshots.find_places, fs, name, paths) for name in chosen]
        found = [one for one in found if one.places and one.refusal is None]
        said = space_of(fs, found)
        assert said.exact
        before = trees_of(fs, found)
        try:
            drive(
                fs.volume, snapshots.take_out, fs, [place for one in found for place in one.places]
            )
        except NoSpace:
            continue
        for one in found:
            flat = world.flat(one.instance.name)
            for place in one.places:
                way = tuple(place.path.split(b"/"))
                world.snaps[one.instance.name].purge(flat[way[:-1]], way[-1])
        while drive(fs.volume, fs.work):
            pass
        world.commit()
        left = {
            block
            for view in (fs.base, *(fs.view(each.id) for each in snapshots.all(fs)))
            for block, _ in brute_force.view_blocks(fs, view)
        }
        assert said.blocks == len(before - left)
    world.prove()


def test_a_full_volume_cannot_be_purged() -> None:
    """Purging works from the reserve, from few snapshots at a time; and what it frees can be
    written.
    """
    volume = Volumes(600)
    ino = volume.make("filler", FILE)
    size, offset = 1 << 20, 0
    while size >= BLOCK:
        try:
            offset += volume.do(volume.fs.write, volume.fs.base, ino, offset, b"f" * size)
        except NoSpace:
            size //= 2
    volume.remove("d")
    with pytest.raises(NoSpace, match="fewer snapshots"):
        volume.purge("d", "one", "two", "three")
    assert all("d" in volume.names("", volume.view(name)) for name in ("one", "two", "three"))
    for name in ("one", "two", "three"):
        volume.purge("d", name)
        volume.work()
    volume.do(volume.fs.write, volume.fs.base, ino, offset, b"f" * 250_000)
    volume.check()

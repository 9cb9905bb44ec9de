"""Snapshots of directories: what they show, what they preserve, and that everything outside costs
them nothing (C1 to C6).
"""

from __future__ import annotations

import random
import stat
from collections.abc import Callable
from typing import Any

import pytest

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.errors import NotFound, NotPermitted, UsageError
from snapfs.filesystem import Changes, Filesystem, View
from snapfs.filesystem.format import format_volume
from snapfs.ids import BASE_VIEW, ROOT_INO
from snapfs.snapshots import Diff, Instance, State
from snapfs.snapshots.lifecycle import new_instance
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice
from tests.model.brute_force import verify, walk
from tests.model.diff_reference import drive_steps
from tests.model.world import World

FILE, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
BLOCK = 4096


class Volumes:
    """A volume with ``/in/deep`` and ``/out``, some files of 20 blocks in each, and a snapshot
    ``part`` of ``/in``.
    """

    def __init__(self) -> None:
        self.device = SparseDevice(4096 * BLOCK)
        format_volume(self.device)
        self.open()
        self.make("in", DIRECTORY)
        self.make("in/deep", DIRECTORY)
        self.make("out", DIRECTORY)
        for place in ("in", "in/deep", "out"):
            for number in range(4):
                self.make(f"{place}/file{number}", FILE)
                self.write(f"{place}/file{number}", place.encode() * 20000)
        self.commit()
        self.snapshot("part", "in")

    def open(self) -> None:
        self.volume = open_volume(self.device)
        self.fs = Filesystem(self.volume)

    def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return drive(self.volume, function, *args, **kwargs)

    def commit(self) -> None:
        while self.do(self.fs.work):
            pass
        commit(self.volume)

    def find(self, path: str, view: View | None = None) -> int:
        view, ino = view or self.fs.base, ROOT_INO
        for name in path.split("/") if path else []:
            ino = self.do(self.fs.lookup, view, ino, name.encode()).ino
        return ino

    def split(self, path: str) -> tuple[int, bytes]:
        parent, _, name = path.rpartition("/")
        return self.find(parent), name.encode()

    def make(self, path: str, mode: int) -> None:
        self.do(self.fs.make, self.fs.base, *self.split(path), mode, 0, 0)

    def write(self, path: str, content: bytes, offset: int = 0, view: View | None = None) -> None:
        self.do(self.fs.write, view or self.fs.base, self.find(path, view), offset, content)

    def read(self, path: str, view: View | None = None) -> bytes:
        ino = self.find(path, view)
        content: bytes = self.do(self.fs.read, view or self.fs.base, ino, 0, 1 << 20)
        return content

    def snapshot(self, name: str, path: str) -> None:
        self.do(snapshots.create, self.fs, name, targets=[self.find(path)])
        self.commit()

    def view(self, name: str = "part") -> View:
        return self.fs.view(snapshots.get(self.fs, name).id)

    def held(self) -> int:
        """Blocks that snapshots keep, but for those of their inode tables and of records."""
        self.commit()
        tables: set[int] = set()
        base = {block for block, _ in walk(self.volume, self.fs.base.table)}
        for one in self.volume.instances.live():
            tables |= {block for block, _ in walk(self.volume, self.fs.view(one.id).table)}
        return self.volume.allocator.held - self.volume.record_blocks - len(tables - base)

    def prove(self) -> None:
        self.commit()
        assert [finding.message() for finding in check_volume(self.device)] == []
        verify(self.fs)


@pytest.fixture
def volumes() -> Volumes:
    return Volumes()


def busy_outside(v: Volumes) -> None:
    """Everything that can happen to files, outside of the directory."""
    v.write("out/file0", b"changed" * 10000)
    v.do(v.fs.set_attributes, v.fs.base, v.find("out/file1"), Changes(size=100), privileged=True)
    v.do(v.fs.unlink, v.fs.base, v.find("out"), b"file2")
    v.do(v.fs.rename, v.fs.base, v.find("out"), b"file3", ROOT_INO, b"moved", 0)
    v.do(v.fs.xattr_set, v.fs.base, v.find("out"), b"user.large", bytes(9000))
    for number in range(100):
        v.make(f"out/{number:0100}", FILE)
    v.commit()
    v.do(v.fs.xattr_set, v.fs.base, v.find("out"), b"user.large", bytes(10))
    v.write("moved", b"again" * 10000)


def test_a_change_outside_costs_a_snapshot_of_a_directory_something(volumes: Volumes) -> None:
    """C2: no block is preserved but those of the inode table."""
    assert volumes.held() == 0
    busy_outside(volumes)
    assert volumes.held() == 0
    volumes.prove()
    volumes.open()
    volumes.write("out/file0", b"after a remount" * 5000)
    assert volumes.held() == 0
    volumes.prove()


def test_a_change_inside_is_not_preserved(volumes: Volumes) -> None:
    """C1, C4, C5: writes, truncation and deletion count as changes; what is unchanged is shared."""
    before = {
        path: volumes.read(path) for path in ("in/file0", "in/file1", "in/file2", "in/deep/file3")
    }
    volumes.write("in/file0", b"x" * BLOCK, 3 * BLOCK)
    assert volumes.held() == 1 + 1, "one block of data, and the pointer block above it"
    volumes.do(
        volumes.fs.set_attributes,
        volumes.fs.base,
        volumes.find("in/file1"),
        Changes(size=0),
        privileged=True,
    )
    assert volumes.held() == 2 + 11
    volumes.do(volumes.fs.unlink, volumes.fs.base, volumes.find("in"), b"file2")
    volumes.do(
        volumes.fs.rename,
        volumes.fs.base,
        volumes.find("in/deep"),
        b"file3",
        ROOT_INO,
        b"outside now",
        0,
    )
    volumes.write("outside now", b"changed" * 9000)
    view = volumes.view()
    assert {path: volumes.read(path, view) for path in before} == before
    volumes.prove()
    volumes.open()
    assert {path: volumes.read(path, volumes.view()) for path in before} == before


def test_what_moves_in_later_is_preserved(volumes: Volumes) -> None:
    """C2: it was outside when the snapshot was made, and the snapshot shows nothing of it."""
    volumes.do(
        volumes.fs.rename,
        volumes.fs.base,
        volumes.find("out"),
        b"file0",
        volumes.find("in"),
        b"moved in",
        0,
    )
    held = volumes.held()
    volumes.write("in/moved in", b"changed" * 9000)
    assert volumes.held() == held
    with pytest.raises(NotFound):
        volumes.find("in/moved in", volumes.view())
    volumes.prove()


def test_a_name_outside_hides_that_a_file_is_inside(volumes: Volumes) -> None:
    """C6: whichever of its names a file is changed by, and whichever goes, the snapshot keeps what
    it showed.
    """
    v = volumes
    v.do(v.fs.link, v.fs.base, v.find("out/file1"), v.find("in"), b"link")
    v.snapshot("second", "in")
    old = v.read("out/file1")
    v.do(v.fs.unlink, v.fs.base, v.find("in"), b"link")
    v.write("out/file1", b"by its other name" * 3000)
    v.do(v.fs.unlink, v.fs.base, v.find("out"), b"file1")
    v.commit()
    assert v.read("in/link", v.view("second")) == old
    v.prove()


def test_a_number_that_is_used_again_takes_the_old_file_with_it(volumes: Volumes) -> None:
    old = volumes.read("in/file0")
    number = volumes.find("in/file0")
    volumes.do(volumes.fs.unlink, volumes.fs.base, volumes.find("in"), b"file0")
    volumes.commit()
    for attempt in range(20):
        volumes.make(f"out/new{attempt}", FILE)
        volumes.write(f"out/new{attempt}", b"new" * 9000)
    assert number in [volumes.find(f"out/new{attempt}") for attempt in range(20)]
    volumes.commit()
    volumes.write(f"out/new{0}", b"newer" * 9000)
    assert volumes.read("in/file0", volumes.view()) == old
    volumes.prove()


def test_the_view_shows_more_than_its_directory(volumes: Volumes) -> None:
    """C1: under its real path, and nothing beside it; whatever has become
    of the directories above.
    """
    view = volumes.view()
    volumes.do(volumes.fs.rename, volumes.fs.base, ROOT_INO, b"in", ROOT_INO, b"renamed", 0)
    for number in range(50):
        volumes.make(f"{number:0200}", FILE)
    volumes.commit()
    volumes.open()
    view = volumes.view()
    assert [entry.name for entry in volumes.do(volumes.fs.entries, view, ROOT_INO, 0, 100)] == [
        b"in"
    ]
    names = {
        entry.name
        for entry in volumes.do(volumes.fs.entries, view, volumes.find("in", view), 0, 100)
    }
    assert names == {b"deep", b"file0", b"file1", b"file2", b"file3"}
    for name in (b"out", b"renamed"):
        with pytest.raises(NotFound):
            volumes.do(volumes.fs.lookup, view, ROOT_INO, name)
    with pytest.raises(NotPermitted):
        volumes.do(volumes.fs.make, view, ROOT_INO, b"beside", FILE, 0, 0)
    with pytest.raises(NotPermitted):
        volumes.do(volumes.fs.set_times, view, ROOT_INO, mtime=1)


def test_making_one_looks_at_what_it_covers() -> None:
    """C3, I9: as many blocks are read and written for a large directory as for a small one."""
    costs = []
    for count in (10, 3000):
        v = Volumes()
        for number in range(count):
            v.make(f"in/{number}", FILE)
            if number % 500 == 0:
                v.commit()
        v.commit()
        v.open()
        v.find("in")
        before = v.volume.blocks_read, v.volume.blocks_written
        v.do(snapshots.create, v.fs, "more", targets=[v.find("in")])
        commit(v.volume)
        costs.append((v.volume.blocks_read - before[0], v.volume.blocks_written - before[1]))
    assert costs[1][0] <= costs[0][0] + 2 and costs[1][1] <= costs[0][1] + 2, costs


def test_parts_of_a_volume_depend_on_each_other(volumes: Volumes) -> None:
    """C6: of different, overlapping and equal directories, at different times; each goes alone."""
    v = volumes
    texts: dict[str, bytes] = {"part": v.read("in/deep/file0")}
    for name, path in (("deep", "in/deep"), ("again", "in/deep"), ("out", "out"), ("all", "")):
        v.write("in/deep/file0", name.encode() * 9000)
        v.write("out/file0", name.encode() * 9000)
        v.snapshot(name, path)
        texts[name] = name.encode() * 9000
    v.write("in/deep/file0", b"last" * 9000)
    v.write("out/file0", b"last" * 9000)
    v.prove()
    rnd = random.Random(3)
    names = list(texts)
    rnd.shuffle(names)
    for gone in names:
        for name, text in texts.items():
            assert (
                v.read("out/file0" if name == "out" else "in/deep/file0", v.view(name))[: len(text)]
                == text
            )
        v.do(snapshots.delete, v.fs, gone)
        del texts[gone]
        v.prove()
    assert v.held() == 0


def test_a_written_view_of_a_directory_reaches_out(volumes: Volumes) -> None:
    """B3: a view of a directory may be changed like any other; neither the base nor a snapshot of
    the view sees it.
    """
    v = volumes
    view = v.view()
    before = v.read("in/file0")
    v.do(snapshots.create, v.fs, "of part", origin=view.id)
    v.commit()
    v.write("in/file0", b"in the view" * 5000, view=view)
    v.do(v.fs.make, view, v.find("in", view), b"new", FILE, 0, 0)
    v.do(v.fs.unlink, view, v.find("in", view), b"file1")
    v.prove()
    assert v.read("in/file0") == before == v.read("in/file0", v.view("of part"))
    assert v.read("in/file1") == v.read("in/file1", v.view("of part"))
    assert [part.ino for part in v.volume.instances.by_name("of part").parts] == [v.find("in")]


def test_a_directory_with_endless_names_above_it_makes_an_instance_that_fits_no_block(
    volumes: Volumes,
) -> None:
    path = "in"
    for _ in range(6):
        path += "/" + "n" * 255
        volumes.make(path, DIRECTORY)
    with pytest.raises(UsageError, match="further up"):
        volumes.snapshot("too deep", path)
    volumes.prove()


def several(v: Volumes, name: str, *paths: str, origin: int = 0) -> Instance:
    ways = [[part.encode() for part in path.split("/")] if path else [] for path in paths]
    instance: Instance = v.do(snapshots.create, v.fs, name, origin=origin, targets=ways)
    v.commit()
    return instance


def listed(v: Volumes, name: str) -> list[str]:
    """All paths that a snapshot shows, each listed in small parts."""
    view, found, work = v.view(name), list[str](), [(ROOT_INO, "")]
    while work:
        ino, path = work.pop()
        after = 0
        while entries := v.do(v.fs.entries, view, ino, after, 1):
            for entry in entries:
                found.append(f"{path}{entry.name.decode()}")
                inode = v.do(v.fs.lookup, view, ino, entry.name)
                assert (inode.ino, stat.S_IFMT(inode.mode)) == (entry.ino, entry.type)
                work += [(entry.ino, found[-1] + "/")] if inode.is_directory else []
            after = entries[-1].cookie
    assert len(found) == len(set(found))
    return sorted(found)


def test_several_parts_show_or_preserve_something_else(volumes: Volumes) -> None:
    """C1, C2: files and directories; those within others are one with them, equal ones are one."""
    v = volumes
    one = several(v, "several", "in/deep/file1", "out/file0", "in/deep", "out/file0", "out/file2")
    assert one.paths == ["/out/file0", "/in/deep", "/out/file2"]
    deep = [f"in/deep/file{number}" for number in range(4)]
    assert listed(v, "several") == ["in", "in/deep", *deep, "out", "out/file0", "out/file2"]
    v.do(snapshots.delete, v.fs, "part")
    v.write("in/file0", b"outside")
    v.write("out/file1", b"outside")
    v.do(v.fs.xattr_set, v.fs.base, v.find("out/file1"), b"user.large", bytes(9000))
    assert v.held() == 0
    old = v.read("out/file0")
    v.write("out/file0", b"x" * BLOCK)
    assert v.held() == 2
    v.do(v.fs.unlink, v.fs.base, v.find("out"), b"file2")
    v.do(v.fs.rename, v.fs.base, v.find("out"), b"file0", ROOT_INO, b"moved", 0)
    v.write("moved", b"again" * 5000)
    assert v.read("out/file0", v.view("several")) == old
    v.prove()
    view = v.view("several")
    v.write("out/file2", b"in the view", view=view)
    with pytest.raises(NotPermitted):
        v.do(v.fs.unlink, view, v.find("out", view), b"file2")
    v.prove()


def test_a_path_of_the_root_is_a_part(volumes: Volumes) -> None:
    """C1: it is everything; of a snapshot, everything that it shows."""
    v = volumes
    assert several(v, "all", "in", "").parts == ()
    one = several(v, "two", "in/deep", "out")
    assert several(v, "both", "", origin=one.id).parts == one.parts
    assert [part.path for part in several(v, "above", "in", origin=one.id).parts] == ["/in/deep"]
    assert several(v, "inner", "in/deep/file0", "out/file3", origin=one.id).kept == one.kept
    v.do(v.fs.xattr_set, v.fs.base, v.find("in"), b"user.large", bytes(9000))
    v.write("in/deep/file0", b"changed" * 10000)
    v.prove()
    for name in ("two", "both", "above"):
        v.do(snapshots.delete, v.fs, name)
    v.prove()
    assert listed(v, "inner") == ["in", "in/deep", "in/deep/file0", "out", "out/file3"]


def test_two_names_of_a_file_are_one_path(volumes: Volumes) -> None:
    """C1: a file may be a part by several names; all are shown."""
    v = volumes
    v.do(v.fs.link, v.fs.base, v.find("in/file0"), v.find("out"), b"link")
    several(v, "links", "in/file0", "out/link")
    assert listed(v, "links") == ["in", "in/file0", "out", "out/link"]
    v.write("in/file0", b"changed" * 9000)
    v.prove()


def test_where_nothing_stood_something_is_shown(volumes: Volumes) -> None:
    """C1: what a restore's undo needs: a part that is absent shows the directories above it, and
    costs nothing.
    """
    v = volumes
    ways = [
        [b"in", b"deep", b"new"],
        [b"in", b"deep", b"gone", b"below"],
        [b"out", b"file0"],
        [b"out", b"file0", b"below"],
    ]
    parts = [v.do(snapshots.part_at, v.fs, v.fs.base, way) for way in ways]
    assert [(part.ino, len(part.chain)) for part in parts] == [
        (0, 2),
        (0, 2),
        (v.find("out/file0"), 2),
        (0, 1),
    ]
    with pytest.raises(NotFound, match="/in/deep/new: no such file or directory"):
        several(v, "no", "in/deep/new")
    undo = v.do(
        new_instance,
        v.fs,
        "undo",
        origin=BASE_VIEW,
        parts=parts[:2],
        owner=0,
        now_ns=None,
        urgency=2,
    )
    v.volume.instances.pending.append(undo)
    v.commit()
    assert listed(v, "undo") == ["in", "in/deep"]
    v.do(snapshots.delete, v.fs, "part")
    v.make("in/deep/new", DIRECTORY)
    v.make("in/deep/new/file", FILE)
    v.write("in/deep/file0", b"changed" * 9000)
    assert v.held() == 0
    v.prove()
    found = drive_steps(
        v.volume, Diff(v.fs, State(undo.root, undo), State(v.volume.base_root)).steps()
    )
    assert [(one.kind, one.path) for one in found] == [
        ("added", b"in/deep/new"),
        ("added", b"in/deep/new/file"),
    ]
    v.do(snapshots.create, v.fs, "of undo", origin=undo.id)
    v.prove()
    v.open()
    assert listed(v, "of undo") == ["in", "in/deep"]


def test_comparing_several_parts_misses_one(volumes: Volumes) -> None:
    """C6: with the present, and with parts that are others: what both cover counts."""
    v = volumes

    def compared(old: str, new: str | None) -> list[tuple[str, bytes | None]]:
        states = [
            State(one.root, one)
            for one in (snapshots.get(v.fs, name) for name in (old, new) if name)
        ]
        found = drive_steps(
            v.volume, Diff(v.fs, states[0], states[1] if new else State(v.volume.base_root)).steps()
        )
        return [(one.kind.value, one.path or one.old_path) for one in found]

    several(v, "old", "in/deep", "out/file0", "out/file1", "out/file2")
    for path in ("in/file0", "in/deep/file0", "out/file0", "out/file3"):
        v.write(path, b"changed")
    v.do(v.fs.unlink, v.fs.base, v.find("out"), b"file1")
    v.do(v.fs.unlink, v.fs.base, v.find("out"), b"file2")
    v.make("out/file2", DIRECTORY)
    v.make("out/file2/below", FILE)
    v.commit()
    everything = [
        ("changed", b"out/file0"),
        ("removed", b"out/file1"),
        ("retyped", b"out/file2"),
        ("added", b"out/file2/below"),
    ]
    assert sorted(compared("old", None)) == sorted([*everything, ("changed", b"in/deep/file0")])
    several(v, "new", "in", "out/file0")
    assert sorted(compared("old", "new")) == [
        ("changed", b"in/deep/file0"),
        ("changed", b"out/file0"),
    ]
    several(v, "out", "out")
    assert sorted(compared("old", "out")) == sorted(everything)
    several(v, "else", "in/file0")
    with pytest.raises(UsageError, match="different directories or files"):
        compared("old", "else")


def test_a_large_file_that_is_emptied_outside_is_preserved(volumes: Volumes) -> None:
    """C2: also when its content goes to an orphan that is freed behind; and inside it is kept."""
    v = volumes
    for place in ("in", "out"):
        v.make(f"{place}/large", FILE)
    number = v.find("in/large")
    v.fs.detach_blocks = 100
    for place in ("in", "out"):
        v.write(f"{place}/large", place.encode() * (250 * BLOCK))
    v.commit()
    v.snapshot("large", "in")
    old = v.do(v.fs.read, v.view("large"), number, 0, 1 << 20)
    held = v.held()
    v.do(v.fs.set_attributes, v.fs.base, v.find("out/large"), Changes(size=0), privileged=True)
    assert v.held() == held
    v.do(v.fs.set_attributes, v.fs.base, number, Changes(size=0), privileged=True)
    v.open()
    v.commit()
    assert v.do(v.fs.read, v.view("large"), number, 0, 1 << 20) == old
    v.prove()


def test_a_file_is_written_in_a_snapshot_while_the_base_frees_what_it_had(volumes: Volumes) -> None:
    """I1 to I3: a part that was made after a file was emptied does not hold its blocks, whoever
    drops them, and in whichever order.
    """
    v = volumes
    v.fs.detach_blocks = 10
    number = v.find("in/file0")
    old = v.read("in/file0")
    several(v, "before", "")
    for name in ("first", "second"):
        if name == "second":  # another heir: what the view has is not in that one
            v.write("in/file0", b"new" * 20000)
        v.do(v.fs.set_attributes, v.fs.base, number, Changes(size=0), privileged=True)
        v.do(snapshots.create, v.fs, name, targets=[v.find("in")])
        commit(v.volume)
    assert len(v.fs.base.orphans) == 2
    v.write("in/file0", b"x" * BLOCK, 3 * BLOCK, v.view("before"))
    v.do(v.fs.set_attributes, v.view("before"), number, Changes(size=0), privileged=True)
    v.write("in/file0", b"kept", 0, v.view("part"))
    assert v.read("in/file0", v.view("part")) == b"kept" + old[4:]
    v.prove()
    for name in ("first", "part", "before", "second"):
        v.do(snapshots.delete, v.fs, name)
        v.prove()
    assert v.held() == 0


@pytest.mark.parametrize("seed", range(12))
def test_a_random_life_breaks_a_part(seed: int) -> None:
    """C6, I3, I6: with files that move in and out, links over the border, writable views, snapshots
    of them, and restores.
    """
    rnd = random.Random(1000 + seed)
    world = World(BLOCK, 2048, parts=True, several=seed % 2 == 1)
    for step in range(120):
        world.step(rnd)
        if step % 30 == 29:
            world.prove()
    world.finish()


@pytest.mark.parametrize(
    "seed", [15, 58, 61, 95, *range(8)]
)  # the first ones reach a file that is emptied twice
def test_random_handovers_leave_blocks_behind(seed: int) -> None:
    """C6, I1 to I3: files that are emptied at once, parts made before they are freed, and writes to
    what snapshots have of them.
    """
    rnd = random.Random(seed)
    world = World(BLOCK, 2048, parts=True, several=True)
    world.make(0, 0, 0, 2)
    world.make(0, 1, 1, 0)
    for step in range(100):
        world.step_around_heirs(rnd)
        if step % 20 == 19:
            world.prove()
    world.finish()

"""Snapshots of directories: what they show, what they preserve, and that everything outside costs them nothing (C1 to C6)."""

from __future__ import annotations

import random
import stat
from collections.abc import Callable
from typing import Any

import pytest
from brute_force import verify, walk
from world import World

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.device.memory import MemoryDevice
from snapfs.errors import NotFound, NotPermitted, UsageError
from snapfs.filesystem import Changes, Filesystem, View
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.driver import commit, drive
from snapfs.store.volume import Volume

FILE, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
BLOCK = 4096


class Volumes:
    """A volume with ``/in/deep`` and ``/out``, some files of 20 blocks in each, and a snapshot ``part`` of ``/in``."""

    def __init__(self) -> None:
        self.device = MemoryDevice(4096 * BLOCK)
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
        self.volume = Volume.open(self.device)
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
        self.do(snapshots.create, self.fs, name, directory=self.find(path))
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
    before = {path: volumes.read(path) for path in ("in/file0", "in/file1", "in/file2", "in/deep/file3")}
    volumes.write("in/file0", b"x" * BLOCK, 3 * BLOCK)
    assert volumes.held() == 1 + 1, "one block of data, and the pointer block above it"
    volumes.do(volumes.fs.set_attributes, volumes.fs.base, volumes.find("in/file1"), Changes(size=0), privileged=True)
    assert volumes.held() == 2 + 11
    volumes.do(volumes.fs.unlink, volumes.fs.base, volumes.find("in"), b"file2")
    volumes.do(volumes.fs.rename, volumes.fs.base, volumes.find("in/deep"), b"file3", ROOT_INO, b"outside now", 0)
    volumes.write("outside now", b"changed" * 9000)
    view = volumes.view()
    assert {path: volumes.read(path, view) for path in before} == before
    volumes.prove()
    volumes.open()
    assert {path: volumes.read(path, volumes.view()) for path in before} == before


def test_what_moves_in_later_is_preserved(volumes: Volumes) -> None:
    """C2: it was outside when the snapshot was made, and the snapshot shows nothing of it."""
    volumes.do(volumes.fs.rename, volumes.fs.base, volumes.find("out"), b"file0", volumes.find("in"), b"moved in", 0)
    held = volumes.held()
    volumes.write("in/moved in", b"changed" * 9000)
    assert volumes.held() == held
    with pytest.raises(NotFound):
        volumes.find("in/moved in", volumes.view())
    volumes.prove()


def test_a_name_outside_hides_that_a_file_is_inside(volumes: Volumes) -> None:
    """C6: whichever of its names a file is changed by, and whichever goes, the snapshot keeps what it showed."""
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
    """C1: under its real path, and nothing beside it; whatever has become of the directories above."""
    view = volumes.view()
    volumes.do(volumes.fs.rename, volumes.fs.base, ROOT_INO, b"in", ROOT_INO, b"renamed", 0)
    for number in range(50):
        volumes.make(f"{number:0200}", FILE)
    volumes.commit()
    volumes.open()
    view = volumes.view()
    assert [entry.name for entry in volumes.do(volumes.fs.entries, view, ROOT_INO, 0, 100)] == [b"in"]
    names = {entry.name for entry in volumes.do(volumes.fs.entries, view, volumes.find("in", view), 0, 100)}
    assert names == {b"deep", b"file0", b"file1", b"file2", b"file3"}
    for name in (b"out", b"renamed"):
        with pytest.raises(NotFound):
            volumes.do(volumes.fs.lookup, view, ROOT_INO, name)
    with pytest.raises(NotPermitted):
        volumes.do(volumes.fs.make, view, ROOT_INO, b"beside", FILE, 0, 0)


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
        v.do(snapshots.create, v.fs, "more", directory=v.find("in"))
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
            assert v.read("out/file0" if name == "out" else "in/deep/file0", v.view(name))[: len(text)] == text
        v.do(snapshots.delete, v.fs, gone)
        del texts[gone]
        v.prove()
    assert v.held() == 0


def test_a_written_view_of_a_directory_reaches_out(volumes: Volumes) -> None:
    """B3: a view of a directory may be changed like any other; neither the base nor a snapshot of the view sees it."""
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
    assert v.volume.instances.by_name("of part").directory == v.find("in")


def test_a_directory_with_endless_names_above_it_makes_an_instance_that_fits_no_block(volumes: Volumes) -> None:
    path = "in"
    for _ in range(6):
        path += "/" + "n" * 255
        volumes.make(path, DIRECTORY)
    with pytest.raises(UsageError, match="further up"):
        volumes.snapshot("too deep", path)
    volumes.prove()


def test_a_large_file_that_is_emptied_outside_is_preserved(volumes: Volumes) -> None:
    """C2: also when its content goes to an orphan that is freed behind; and inside it is kept."""
    v = volumes
    for place in ("in", "out"):
        v.make(f"{place}/large", FILE)
    number = v.find("in/large")
    import snapfs.filesystem.filesystem as module

    limit, module.DETACH_BLOCKS = module.DETACH_BLOCKS, 100
    try:
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
    finally:
        module.DETACH_BLOCKS = limit


@pytest.mark.parametrize("seed", range(12))
def test_a_random_life_breaks_a_part(seed: int) -> None:
    """C6, I3, I6: with files that move in and out, links over the border, writable views, snapshots of them, and restores."""
    rnd = random.Random(1000 + seed)
    world = World(BLOCK, 2048, parts=True)
    for step in range(120):
        world.step(rnd)
        if step % 30 == 29:
            world.prove()
    world.finish()

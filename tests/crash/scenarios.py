"""Scenarios for the crash tests: short stories, each about something that a commit must keep whole.

A scenario gets a ``Stage`` and yields nothing: whenever it calls ``stage.commit()`` a generation is
sealed, written and promised.
"""

from __future__ import annotations

import random
import stat
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

from snapfs import snapshots
from snapfs.errors import NoSpace
from snapfs.filesystem import Changes, Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.filesystem.orphans import orphans as orphans_of_views
from snapfs.ids import ROOT_INO
from snapfs.interrupts import CommitNeeded, NotCached
from snapfs.snapshots import Facts, Hold, autodelete
from snapfs.store.commit import commit, log_writing
from snapfs.store.commit import deletion as background
from snapfs.store.commit.commit import seal
from snapfs.store.commit.copy_map_space import allocate_map, free_map
from snapfs.store.commit.recovery import open_volume
from snapfs.store.tables.copies import RunningCopy
from tests.crash.oracle import Oracle, dump
from tests.crash.recording import SECTOR, RecordingDevice

FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755


#: When the volumes of all stories are made.
CREATED_NS = 1_000_000_000_000


class Stage:
    """A recorded volume, and the handles that a story needs."""

    def __init__(
        self, blocks: int = 320, block_size: int = 4096, seed: int = 1, device: Any = None
    ) -> None:
        self.rng = random.Random(seed)
        self.device = device or RecordingDevice(blocks * block_size)
        # The seed of the hash decides where names go.
        format_volume(
            self.device, block_size=block_size, entropy=self.rng.randbytes, now_ns=CREATED_NS
        )
        self.volume = open_volume(self.device)
        self.fs = Filesystem(self.volume)
        self.clock = CREATED_NS
        self.records = 0
        self.fs.now = self.volume.now = lambda: self.clock
        self.oracle = Oracle()
        self.oracle.generations[self.volume.generation] = dump(self.fs)

    def tick(self) -> None:
        """Something else happens, and later: however often a call asks, the time is the same."""
        self.clock += 1_000_000_007

    def start(self) -> None:
        """The story begins: what is there is durable."""
        self.commit()
        self.device.start()
        self.device.promise(self.volume.generation)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As ``driver.drive``, with commits that the oracle sees."""
        self.tick()
        while True:
            try:
                return function(*args, **kwargs)
            except NotCached as exc:
                self.volume.admit(self.volume.read_wants(exc.wants))
            except CommitNeeded:
                self._make_room()

    def _make_room(self) -> None:
        """As the driver does."""
        allocator = self.volume.allocator
        while allocator.more_to_come():
            try:
                if not allocator.reclaim():
                    break
            except NotCached as exc:
                self.volume.admit(self.volume.read_wants(exc.wants))
            except CommitNeeded:
                before = self.volume.generation
                self.commit()
                if self.volume.generation == before:
                    break
        self.commit()

    def commit(self) -> None:
        """Seal, write, promise."""
        self.tick()
        while self.volume.dirty:
            try:
                sealed = seal(self.volume)
            except NotCached as exc:
                self.volume.admit(self.volume.read_wants(exc.wants))
                continue
            self.oracle.generations[sealed.generation] = dump(self.fs)
            sealed.write()
            self.volume.committed(sealed)
            if self.device.recording:
                self.device.promise(sealed.generation)

    def sync(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """As fsync: a record of the log, written and promised, or else a commit. ``meanwhile``: the
        record is on its way.
        """
        volume = self.volume
        if volume.is_synced:
            return
        record = log_writing.begin(volume)
        if record is None:
            self.commit()
            return
        self.records += 1
        point = volume.generation, volume.sync_log.number
        self.oracle.logged[point] = dump(self.fs)
        meanwhile()
        record.write()
        volume.logged(record)
        if self.device.recording:
            self.device.promise(*point)

    def commit_while_discarding(self) -> None:
        """What is due is discarded when a generation has been sealed and not written yet."""
        discards = self.volume.allocator.discards
        runs = discards.begin()
        sealed = self.call(seal, self.volume)
        self.oracle.generations[sealed.generation] = dump(self.fs)
        failure = self.volume.discard(runs)
        sealed.write()
        discards.done(failure)
        self.volume.committed(sealed)
        self.device.promise(sealed.generation)

    def discard(self) -> None:
        """Discard what is due now, as a worker thread does at any time after the commit that freed
        it.
        """
        discards = self.volume.allocator.discards
        while runs := discards.begin():
            discards.done(self.volume.discard(runs))

    # Words of the stories; names are paths from the root

    def node(self, path: bytes, view: Any = None) -> int:
        ino = ROOT_INO
        for name in filter(None, path.split(b"/")):
            ino = self.call(self.fs.lookup, view or self.fs.base, ino, name).ino
        return ino

    def _parent(self, path: bytes, view: Any) -> tuple[int, bytes]:
        before, _, name = path.rpartition(b"/")
        return self.node(before, view), name

    def make(self, path: bytes, mode: int = FILE, view: Any = None, **more: Any) -> int:
        view = view or self.fs.base
        inode = self.call(self.fs.make, view, *self._parent(path, view), mode, 0, 0, **more)
        return int(inode.ino)

    def write(self, path: bytes, offset: int, data: bytes, view: Any = None) -> None:
        view = view or self.fs.base
        self.call(self.fs.write, view, self.node(path, view), offset, data)

    def fill(self, path: bytes, size: int, view: Any = None) -> None:
        view = view or self.fs.base
        self.make(path, view=view)
        self.write(path, 0, self.rng.randbytes(size), view)

    def touch(self, path: bytes) -> None:
        """The times, as the kernel's writeback cache sets them."""
        self.tick()
        changes = Changes(atime=self.fs.now(), mtime=self.fs.now(), ctime=self.fs.now())
        self.call(self.fs.set_attributes, self.fs.base, self.node(path), changes, privileged=True)

    def truncate(self, path: bytes, size: int) -> None:
        self.call(
            self.fs.set_attributes,
            self.fs.base,
            self.node(path),
            Changes(size=size),
            privileged=True,
        )

    def unlink(self, path: bytes, view: Any = None) -> None:
        view = view or self.fs.base
        self.call(self.fs.unlink, view, *self._parent(path, view))

    def rmdir(self, path: bytes) -> None:
        self.call(self.fs.rmdir, self.fs.base, *self._parent(path, self.fs.base))

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        view = self.fs.base
        self.call(self.fs.rename, view, *self._parent(old, view), *self._parent(new, view), flags)

    def xattr(self, path: bytes, name: bytes, value: bytes) -> None:
        self.call(self.fs.xattr_set, self.fs.base, self.node(path), name, value)

    def snapshot(self, name: str, origin: str | None = None) -> None:
        number = snapshots.get(self.fs, origin).id if origin else 0
        self.call(snapshots.create, self.fs, name, origin=number)
        self.commit()

    def view(self, name: str) -> Any:
        return self.fs.view(snapshots.get(self.fs, name).id)

    def delete(self, name: str) -> None:
        self.call(snapshots.delete, self.fs, name)
        self.commit()

    def say(self, name: str, change: Callable[[Facts], Facts]) -> None:
        self.call(snapshots.change_facts, self.fs, name, change)

    def purge(self, path: bytes, *names: str) -> None:
        found = [self.call(snapshots.find_places, self.fs, name, [path]) for name in names]
        self.call(snapshots.take_out, self.fs, [place for one in found for place in one.places])
        self.commit()

    def restore(self, name: str, *paths: str) -> None:
        try:
            self.call(snapshots.restore, self.fs, name, paths=paths)
        finally:
            snapshots.give_up_restore(self.fs)
        self.commit()

    def start_copy(self, blocks: int) -> None:
        """A copy begins, whose map takes so many blocks of the volume (none: it is outside)."""
        name = self.rng.randbytes(16)

        def register() -> None:
            runs = allocate_map(self.volume, blocks) if blocks else ()
            self.volume.copies.put(
                RunningCopy(
                    name, self.volume.generation, b"/copy", runs, b"" if runs else b"/map"
                ).checked()
            )

        self.call(register)
        self.write_map(1)

    def write_map(self, likely: float) -> None:
        """Write sectors of the map in place, each with a probability."""
        copy, block_size = self.copy, self.volume.geometry.block_size
        for start, length in copy.map_runs:
            for offset in range(start * block_size, (start + length) * block_size, SECTOR):
                if self.rng.random() < likely:
                    self.volume.device.write(
                        offset, copy.id + self.rng.randbytes(SECTOR - len(copy.id))
                    )

    @property
    def copy(self) -> RunningCopy:
        """The one that is running."""
        assert self.volume.copies.current is not None
        return self.volume.copies.current

    def change_copy(self) -> None:
        self.call(self.volume.copies.put, replace(self.copy, paused=not self.copy.paused))

    def end_copy(self) -> None:
        def end() -> None:
            free_map(self.volume, self.copy.map_runs)
            self.volume.copies.put(None)

        self.call(end)

    def allocate_from(self, *numbers: int) -> None:
        """The next blocks come from these groups; left alone, allocation stays with one until that
        is nearly full.
        """
        self.volume.allocator.need_groups(numbers)
        self.volume.allocator.window[:] = numbers

    def work(self, steps: int = 1 << 30) -> None:
        while steps and self.call(self.fs.work):
            steps -= 1


def files(stage: Stage) -> None:
    """Write, overwrite, append, holes."""
    stage.fill(b"kept", 20_000)
    stage.start()
    stage.fill(b"new", 9_000)
    stage.commit()
    stage.write(b"new", 4096, b"x" * 4096)
    stage.write(b"kept", 3_000, b"y" * 6_000)
    stage.commit()
    stage.write(b"new", 200_000, b"far")
    stage.write(b"new", 100, b"in place")
    stage.commit()
    stage.write(b"kept", 20_000, b"appended")
    stage.commit()


def directories(stage: Stage) -> None:
    """Many names, a directory that splits and shrinks, moved subtrees."""
    stage.make(b"d", DIRECTORY)
    stage.start()
    for number in range(150):
        stage.make(b"d/%d" % number + b"n" * 60)
    stage.make(b"d/sub", DIRECTORY)
    stage.make(b"e", DIRECTORY)
    stage.commit()
    stage.rename(b"d/sub", b"e/moved")
    for number in range(140):
        stage.unlink(b"d/%d" % number + b"n" * 60)
    stage.commit()
    stage.make(b"e/moved/deep")
    for number in range(140, 150):
        stage.unlink(b"d/%d" % number + b"n" * 60)
    stage.rmdir(b"d")
    stage.make(b"d")
    stage.commit()


def rename_over(stage: Stage) -> None:
    """The way editors save: write a new file, rename it over the old one."""
    stage.fill(b"document", 8_000)
    stage.start()
    for _ in range(4):
        stage.fill(b"document.new", 7_000 + stage.rng.randrange(4_000))
        stage.commit()
        stage.rename(b"document.new", b"document")
        stage.commit()
    stage.fill(b"other", 5_000)
    stage.rename(b"other", b"document", 2)
    stage.commit()


def truncation(stage: Stage) -> None:
    """Shorter, longer, to nothing; a large file to nothing at once."""
    stage.fill(b"f", 150_000)
    stage.start()
    stage.truncate(b"f", 70_001)
    stage.commit()
    stage.truncate(b"f", 300_000)
    stage.commit()
    stage.write(b"f", 290_000, b"end")
    stage.truncate(b"f", 0)
    stage.fill(b"large", 60_000)
    stage.commit()
    stage.work()
    stage.fs.detach_blocks = 10
    stage.truncate(b"large", 0)
    stage.commit()
    stage.work()
    stage.commit()


def attributes(stage: Stage) -> None:
    """Extended attributes inline, in blocks, and back."""
    stage.fill(b"f", 100)
    stage.start()
    for size in (20, 3_000, 60_000, 200, 10):
        stage.xattr(b"f", b"user.x", stage.rng.randbytes(size))
        stage.commit()
    stage.make(b"link", stat.S_IFLNK | 0o777, target=b"t" * 3000)
    stage.commit()


def orphans(stage: Stage) -> None:
    """Files that are deleted while somebody uses them."""
    stage.fill(b"f", 120_000)
    stage.fill(b"g", 2_000)
    inos = [stage.node(b"f"), stage.node(b"g")]
    for ino in inos:
        stage.fs.hold(stage.fs.base, ino)
    stage.start()
    stage.unlink(b"f")
    stage.unlink(b"g")
    stage.commit()
    stage.call(stage.fs.write, stage.fs.base, inos[0], 0, b"still written")
    stage.commit()
    for ino in inos:
        stage.fs.forget(stage.fs.base, ino)
    stage.work()
    stage.commit()


def snapshot_create(stage: Stage) -> None:
    """Snapshots with changes between them, and one of a snapshot."""
    stage.fill(b"f", 40_000)
    stage.start()
    stage.snapshot("one")
    stage.write(b"f", 0, b"1" * 8192)
    stage.snapshot("two")
    stage.write(b"f", 4096, b"2" * 8192)
    stage.fill(b"g", 5_000)
    stage.snapshot("three", "one")
    stage.unlink(b"f")
    stage.commit()


def view_written(stage: Stage) -> None:
    """Writes in a view, and in the base below it."""
    stage.fill(b"f", 40_000)
    stage.fill(b"g", 4_000)
    stage.snapshot("one")
    stage.start()
    stage.write(b"f", 8192, b"view" * 1024, stage.view("one"))
    stage.commit()
    stage.fill(b"only here", 6_000, stage.view("one"))
    stage.write(b"f", 8192, b"base" * 1024)
    stage.unlink(b"g", stage.view("one"))
    stage.commit()
    stage.snapshot("two", "one")
    stage.write(b"f", 0, b"again", stage.view("one"))
    stage.commit()


def deletion(stage: Stage) -> None:
    """Snapshots deleted in any order, with background work between commits."""
    stage.fill(b"f", 60_000)
    for number in range(4):
        stage.snapshot(f"s{number}")
        stage.write(b"f", number * 12_000, stage.rng.randbytes(9_000))
    stage.write(b"f", 0, b"v" * 5000, stage.view("s1"))
    stage.start()
    stage.delete("s1")
    stage.work(1)
    stage.commit()
    stage.delete("s3")
    stage.work()
    stage.commit()
    stage.delete("s0")
    stage.unlink(b"f")
    stage.work()
    stage.commit()
    stage.snapshot("new")


def interrupted_deletion(stage: Stage) -> None:
    """The background part of deleting goes through many records, and every commit finds it
    somewhere else.
    """
    with mock.patch.object(background, "STEP_RUNS", 3):
        stage.fill(b"f", 40 * 4096)
        stage.snapshot("one")
        for position in range(0, 40, 2):
            stage.write(b"f", position * 4096, b"x" * 4096)
        stage.snapshot("two")
        for position in range(0, 40, 3):
            stage.write(b"f", position * 4096, b"y" * 4096)
        stage.write(b"f", 4096, b"view" * 3000, stage.view("one"))
        stage.start()
        stage.delete("one")
        while stage.fs.has_work:
            stage.work(2)
            stage.write(b"f", stage.rng.randrange(40) * 4096, b"z" * 4096)
            stage.commit()
        stage.delete("two")
        stage.work(1)
        stage.snapshot("three")
        stage.work()
        stage.commit()


def restoring(stage: Stage) -> None:
    """There and back."""
    stage.fill(b"f", 60_000)
    stage.make(b"d", DIRECTORY)
    stage.fill(b"d/g", 3_000)
    stage.snapshot("one")
    stage.write(b"f", 4096, b"x" * 20_000)
    stage.unlink(b"d/g")
    stage.fill(b"new", 9_000)
    stage.snapshot("two")
    stage.start()
    stage.restore("one")
    stage.write(b"f", 0, b"after")
    stage.commit()
    stage.restore("two")
    stage.delete("one")
    stage.work()
    stage.commit()


def restoring_parts(stage: Stage) -> None:
    """A directory and a file go back: from what has changed, moved out, been linked over the border
    and removed; and there again.
    """
    stage.make(b"d", DIRECTORY)
    stage.make(b"d/sub", DIRECTORY)
    stage.fill(b"d/f", 30_000)
    stage.fill(b"d/moved", 20_000)
    stage.fill(b"d/sub/gone", 9_000)
    stage.fill(b"d/linked", 9_000)
    stage.xattr(b"d/moved", b"user.large", bytes(5_000))
    stage.call(stage.fs.link, stage.fs.base, stage.node(b"d/linked"), ROOT_INO, b"link")
    stage.call(snapshots.create, stage.fs, "part", targets=[[b"d"]])
    stage.snapshot("all")
    stage.write(b"d/f", 4096, b"x" * 9_000)
    stage.rename(b"d/moved", b"moved")
    stage.unlink(b"d/sub/gone")
    stage.rmdir(b"d/sub")
    stage.write(b"link", 0, b"through the other name")
    stage.fill(b"d/new", 9_000)
    stage.start()
    stage.restore("part")
    stage.write(b"d/f", 0, b"after")
    stage.commit()
    stage.unlink(b"d/f")
    stage.restore("all", "d/f", "d/sub/gone")
    stage.delete("part")
    stage.restore(next(one.name for one in snapshots.all(stage.fs) if one.undo))
    stage.work()
    stage.commit()


def scheduled(stage: Stage) -> None:
    """Restores that are arranged, replaced, taken back and done: with each, its schedule goes and a
    line of the history comes.
    """
    stage.fill(b"f", 60_000)
    stage.snapshot("one")
    stage.write(b"f", 4096, b"x" * 20_000)
    stage.snapshot("two")
    stage.unlink(b"f")
    stage.start()
    stage.call(snapshots.schedule, stage.fs, "one", owner=7)
    stage.commit()
    stage.call(snapshots.schedule, stage.fs, "two", paths=["f"])
    stage.commit()
    stage.call(snapshots.cancel, stage.fs)
    stage.commit()
    stage.call(snapshots.schedule, stage.fs, "two")
    stage.call(snapshots.rename, stage.fs, "two", "other")
    stage.commit()
    stage.call(snapshots.restore_scheduled, stage.fs)
    stage.commit()
    stage.write(b"f", 0, b"after")
    stage.call(snapshots.schedule, stage.fs, "one")
    stage.commit()
    stage.call(snapshots.restore_scheduled, stage.fs)
    stage.commit()
    stage.delete("other")
    stage.work()
    stage.commit()


def facts(stage: Stage) -> None:
    """What is said about snapshots, and taken back."""
    stage.fill(b"f", 20_000)
    for number in range(6):
        stage.snapshot(f"s{number}")
    stage.start()
    for number in range(6):
        stage.say(
            f"s{number}",
            lambda now: now.changed(read_only=True, description="d" * 500, tags={"k": "v" * 500}),
        )
        stage.say(f"s{number}", lambda now: now.hold(Hold("one", "r" * 100)).hold(Hold("two")))
        stage.commit()
    stage.call(snapshots.create, stage.fs, "more", facts=Facts(description="from the start"))
    stage.say("s1", lambda now: now.release("one"))
    stage.commit()
    for number in range(5):
        stage.say(f"s{number}", lambda _: Facts())
    stage.delete("s3")
    stage.work()
    stage.commit()


def records(stage: Stage) -> None:
    """Records that outgrow their group's header, and shrink back into it.

    So that the volume may be small, its headers are taken to have less room than they have.
    """
    with mock.patch.object(commit, "PAYLOAD_OFFSET", 4096 - 300):
        stage.make(b"f")
        stage.write(b"f", 0, stage.rng.randbytes(4096 * 300))
        stage.snapshot("one")
        stage.start()
        for position in range(0, 300, 2):
            stage.write(b"f", position * 4096, b"x" * 4096)
        stage.commit()
        stage.snapshot("two")
        for position in range(0, 300, 3):
            stage.write(b"f", position * 4096, b"y" * 4096)
        stage.commit()
        stage.delete("one")
        stage.work()
        stage.commit()
        stage.delete("two")
        stage.work()
        stage.commit()


def ring(stage: Stage) -> None:
    """More commits than the superblock ring and the header slots have places."""
    stage.start()
    for number in range(20):
        stage.fill(b"f%d" % number, 100)
        stage.commit()


def groups(stage: Stage) -> None:
    """Two groups, whose headers turn together and in turn."""
    stage.fill(b"f", 30_000)
    stage.start()
    for number in range(6):
        if number % 3 < 2:
            stage.allocate_from(number % 3)
        else:
            stage.allocate_from(0, 1)
        stage.write(b"f", number * 5_000, stage.rng.randbytes(9_000))
        stage.make(b"name %d" % number)
        if number in (1, 3):
            stage.snapshot(f"s{number}")
        stage.commit()
    stage.delete("s1")
    stage.work()
    stage.commit()


def full_of_snapshots(stage: Stage) -> None:
    """Overwriting until snapshots have taken all space; then going back, and deleting, out of the
    reserve.
    """
    stage.fill(b"f", 160_000)
    stage.snapshot("first")
    number = 0
    try:
        while number < 1000:
            stage.write(b"f", number % 39 * 4096, stage.rng.randbytes(4096))
            if number % 13 == 12:
                stage.snapshot(f"s{number}")
            number += 1
    except NoSpace:
        pass
    assert number < 1000
    stage.start()
    stage.restore("first")
    for each in ("s12", "first"):
        stage.delete(each)
        stage.work(1)
        stage.commit()
    stage.unlink(b"f")
    stage.commit()
    for left in snapshots.all(stage.fs):
        stage.delete(left.name)
    stage.work()
    stage.commit()
    stage.fill(b"again", 30_000)
    stage.commit()


def autodeletion(stage: Stage) -> None:
    """Writing until there is no space, and snapshots of a policy that go one by one to make some;
    the others stay.
    """
    by_policy = Facts(tags={"policy": "hourly"})
    kept = {"hand": Facts(), "held": by_policy.hold(Hold("audit"))}
    for name, facts in {
        "p1": by_policy,
        "hand": kept["hand"],
        "p2": by_policy,
        "held": kept["held"],
        "p3": by_policy,
    }.items():
        stage.fill(b"f-" + name.encode(), 40_000)
        stage.call(snapshots.create, stage.fs, name, facts=facts)
        stage.commit()
        stage.unlink(b"f-" + name.encode())
    stage.start()

    def insist(function: Callable[..., Any], *args: Any) -> bool:
        while True:
            try:
                function(*args)
                return True
            except NoSpace:
                if stage.call(autodelete.make_room, stage.fs) is None:
                    return False
            stage.work(stage.rng.randrange(2))
            stage.commit()

    number = 0
    while insist(stage.make, b"n%d" % number) and insist(
        stage.write, b"n%d" % number, 0, stage.rng.randbytes(30_000)
    ):
        number += 1
    assert [one.name for one in snapshots.all(stage.fs)] == list(kept)
    stage.work()
    stage.commit()


def purge(stage: Stage) -> None:
    """A tree and a file go from all snapshots at once; a commit finds the tree half emptied, and a
    snapshot is made of one like that.
    """
    stage.make(b"d", DIRECTORY)
    stage.make(b"d/deep", DIRECTORY)
    for number in range(12):
        stage.make(b"d/%d" % number)
    stage.fill(b"d/deep/data", 60_000)
    stage.fill(b"secret", 5_000)
    stage.call(stage.fs.link, stage.fs.base, stage.node(b"d/deep/data"), stage.node(b"d"), b"name")
    stage.fill(b"large", 90_000)
    for name in ("one", "two", "three"):
        stage.snapshot(name)
        stage.write(b"secret", 0, stage.rng.randbytes(3_000))
    stage.say("two", lambda now: now.changed(read_only=True))
    stage.start()
    with (
        mock.patch.object(orphans_of_views, "STEP_NAMES", 5),
        mock.patch.object(orphans_of_views, "STEPS", 1),
    ):
        stage.purge(b"secret", "one", "two", "three")
        stage.purge(b"d", "one", "two")
        stage.work(2)
        stage.commit()
        stage.snapshot("four", "two")
        stage.work(3)
        stage.commit()
        stage.purge(b"large", "two", "three", "four")
        stage.delete("one")
        stage.work(4)
        stage.commit()
        stage.restore("four")
    stage.work()
    stage.commit()


def running_copy(stage: Stage) -> None:
    """Copies begin, change and end; the map of one is written all the time, whatever the commits
    do.
    """
    stage.fill(b"f", 40_000)
    stage.start()
    for number, blocks in enumerate((2, 0, 3)):
        stage.start_copy(blocks)
        stage.commit()
        for _ in range(3):
            stage.write_map(0.3)
            stage.write(b"f", stage.rng.randrange(9) * 4096, b"x" * 5_000)
            stage.change_copy()
            stage.commit()
        stage.write_map(0.1)
        stage.snapshot(f"s{number}")
        stage.write_map(0.1)
        stage.end_copy()
        stage.fill(b"after %d" % number, 30_000)
        stage.commit()
        stage.write(b"after %d" % number, 0, b"y" * 20_000)
        stage.unlink(b"after %d" % number)
        stage.work()
        stage.commit()


def full_volume(stage: Stage) -> None:
    """Writing until there is no space, and deleting."""
    stage.fill(b"first", 50_000)
    stage.snapshot("one")
    stage.start()
    number = 0
    try:
        while number < 1000:
            stage.fill(b"f%d" % number, 40_000)
            number += 1
    except NoSpace:
        pass
    assert number < 1000
    stage.commit()
    stage.unlink(b"first")
    stage.unlink(b"f0")
    stage.commit()
    stage.delete("one")
    stage.work()
    stage.commit()
    stage.fill(b"again", 30_000)
    stage.commit()


def discarding(stage: Stage) -> None:
    """Freed blocks are discarded: at once, after the next commit, and while a commit that has freed
    more is on its way.
    """
    stage.volume.allocator.discards.wanted = True
    for number in range(4):
        stage.fill(b"f%d" % number, 30_000)
    stage.snapshot("one")
    stage.start()
    stage.write(b"f0", 0, stage.rng.randbytes(20_000))
    stage.unlink(b"f1")
    stage.work()
    stage.commit()
    stage.discard()
    stage.fill(b"new", 25_000)
    stage.unlink(b"f2")
    stage.unlink(b"new")  # was never durable
    stage.work()
    stage.commit()
    stage.fill(b"again", 30_000)
    stage.commit_while_discarding()
    with stage.volume.allocator.readers.open():
        stage.delete("one")
        stage.work()
        stage.commit()
        stage.discard()
    stage.discard()
    stage.write(b"f0", 4096, stage.rng.randbytes(20_000))
    stage.rename(b"again", b"f3")
    stage.work()
    stage.commit()
    stage.discard()
    stage.fill(b"last", 200_000)
    stage.commit()


def logged(stage: Stage) -> None:
    """fsync after fsync: the same block again and again, parts of blocks, growing, far away, times;
    more than the log takes; and names.
    """
    stage.fill(b"f", 80_000)
    stage.fill(b"g", 3_000)
    stage.write(b"f", 0, b"first")
    stage.commit()
    stage.write(b"f", 0, b"asks for a log")
    stage.start()
    for number in range(3):
        stage.write(b"f", 8192, b"%d" % number * 4096)
        stage.touch(b"f")
        stage.sync()
    stage.write(b"f", 8192, b"the same")
    stage.write(b"f", 8000, b"once more")
    stage.write(b"g", 2_900, b"grows" * 400)
    stage.sync()
    stage.sync()
    for _ in range(7):
        stage.write(
            b"f", 4096 * stage.rng.randrange(30), stage.rng.randbytes(stage.rng.randrange(1, 9000))
        )
        stage.sync()
    stage.write(b"g", 2 << 20, b"far")
    stage.sync()
    stage.commit()
    stage.touch(b"g")
    stage.sync()
    stage.touch(b"g")
    stage.commit()
    stage.write(b"f", 100, b"not synced")
    stage.make(b"new")
    stage.sync()
    stage.write(b"new", 0, b"n" * 5000)
    stage.sync()
    stage.write(b"new", 3, b"again")
    stage.touch(b"g")
    stage.sync(lambda: stage.write(b"new", 3, b"while the record is on its way"))
    stage.write(b"g", 2 << 20, b"afterwards")
    stage.commit()
    assert stage.records >= 10


def logged_and_freed(stage: Stage) -> None:
    """What a record names is replaced, deleted and cut off; its blocks are wanted by others, with
    discards, on a small volume.
    """
    stage.volume.allocator.discards.wanted = True
    for number in range(3):
        stage.fill(b"f%d" % number, 30_000)
    stage.write(b"f0", 0, b"asks for a log")
    stage.commit()
    stage.volume.sync_log.wanted = True
    stage.write(b"f0", 0, b"has a log")
    stage.start()
    for turn in range(4):
        path = b"f%d" % (turn % 3)
        stage.write(path, 4096 * turn, stage.rng.randbytes(9_000))
        stage.sync()
        stage.write(path, 4096 * turn, stage.rng.randbytes(5_000))

        def meanwhile(path: bytes = path, turn: int = turn) -> None:
            stage.write(path, 4096 * turn, stage.rng.randbytes(4_096))

        stage.sync(meanwhile)
        if turn == 1:
            stage.unlink(b"f1")
            stage.work()
            stage.fill(b"other", 20_000)
            stage.sync()
        if turn == 2:
            stage.truncate(b"f2", 5_000)
            stage.write(b"f0", 0, stage.rng.randbytes(12_000))
            stage.sync()
            stage.rename(b"other", b"f1")
        stage.discard()
        stage.write(b"f0", 20_000, stage.rng.randbytes(20_000))
        stage.sync()
    stage.commit()
    assert stage.records >= 6


def logged_under_snapshots(stage: Stage) -> None:
    """Blocks that snapshots hold are replaced, views are written, the base goes back."""
    stage.fill(b"f", 60_000)
    stage.fill(b"g", 8_000)
    stage.volume.sync_log.wanted = True
    stage.snapshot("one")
    stage.start()
    for number in range(3):
        stage.write(b"f", 4096 * 2 * number, stage.rng.randbytes(6_000))
        stage.sync()
    stage.snapshot("two")
    stage.write(b"f", 0, stage.rng.randbytes(16_000))
    stage.sync()
    stage.write(b"f", 4096, stage.rng.randbytes(4_096))
    stage.sync()
    stage.write(b"g", 0, b"view" * 1000, stage.view("one"))
    stage.sync()
    stage.write(b"g", 0, b"base" * 1000)
    stage.sync()
    stage.restore("one", b"g".decode())
    stage.write(b"g", 100, b"after")
    stage.sync()
    stage.delete("one")
    stage.work(1)
    stage.write(b"f", 8192, stage.rng.randbytes(4_096))
    stage.sync()
    stage.work()
    stage.write(b"f", 12_288, stage.rng.randbytes(4_096))
    stage.sync()
    stage.restore("two")
    stage.write(b"f", 0, b"base again")
    stage.sync()
    stage.commit()
    assert stage.records >= 5


def logged_until_full(stage: Stage) -> None:
    """The log is given up for the last blocks, and there again when there is space."""
    stage.fill(b"f", 40_000)
    stage.fill(b"much", 700_000)
    stage.volume.sync_log.wanted = True
    stage.start()
    number = 0
    try:
        while number < 1000:
            stage.write(b"f", 0, stage.rng.randbytes(4_096))
            stage.sync()
            stage.write(b"f", 40_000 + 20_000 * number, stage.rng.randbytes(20_000))
            stage.sync()
            number += 1
    except NoSpace:
        pass
    assert 2 < number < 1000
    assert stage.volume.sync_log.region is None
    stage.sync()
    stage.truncate(b"f", 20_000)
    stage.work()
    stage.commit()
    for _ in range(3):
        stage.write(b"f", 0, stage.rng.randbytes(4_096))
        stage.sync()
    region: object = stage.volume.sync_log.region
    assert region is not None
    assert stage.records > 5


#: Name -> (story, blocks of its volume).
SCENARIOS: dict[str, tuple[Callable[[Stage], None], int]] = {
    "files": (files, 320),
    "directories": (directories, 320),
    "rename_over": (rename_over, 320),
    "truncation": (truncation, 400),
    "attributes": (attributes, 320),
    "orphans": (orphans, 320),
    "snapshot_create": (snapshot_create, 320),
    "view_written": (view_written, 320),
    "deletion": (deletion, 400),
    "interrupted_deletion": (interrupted_deletion, 400),
    "restoring": (restoring, 400),
    "restoring_parts": (restoring_parts, 400),
    "scheduled": (scheduled, 400),
    "facts": (facts, 320),
    "records": (records, 1000),
    "ring": (ring, 320),
    "groups": (groups, 33_024),
    "purge": (purge, 400),
    "running_copy": (running_copy, 320),
    "full_volume": (full_volume, 288),
    "autodeletion": (autodeletion, 320),
    "discarding": (discarding, 320),
    "full_of_snapshots": (full_of_snapshots, 320),
    "logged": (logged, 400),
    "logged_and_freed": (logged_and_freed, 320),
    "logged_under_snapshots": (logged_under_snapshots, 400),
    "logged_until_full": (logged_until_full, 400),
}

"""A volume that is filled to the last block by whatever means goes on: deleting, going back and
committing work, and space comes back.

The reserve pays for them. Also: what a volume promises to take is what it takes.
"""

from __future__ import annotations

import contextlib
import random
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.errors import NoSpace
from snapfs.filesystem import Filesystem, View
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755
MIB = 1 << 20

sizes = pytest.mark.parametrize(
    ("size", "block_size"),
    [(16 * MIB, 4096), (64 * MIB, 4096), (16 * MIB, 65536), (64 * MIB, 65536)],
)


@dataclass
class Filled:
    """A volume, and words to fill it by. ``put`` and what is built of it return the bytes that went
    in until nothing more did.
    """

    device: SparseDevice
    fs: Filesystem

    @property
    def block_size(self) -> int:
        return self.fs.volume.geometry.block_size

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return drive(self.fs.volume, function, *args, **kwargs)

    def make(
        self, name: bytes, parent: int = ROOT_INO, mode: int = FILE, view: View | None = None
    ) -> int:
        number: int = self.call(self.fs.make, view or self.fs.base, parent, name, mode, 0, 0).ino
        return number

    def put(self, ino: int, offset: int, data: bytes, view: View | None = None) -> int:
        """As much as fits."""
        done, step = 0, len(data)
        while done < len(data):
            try:
                done += self.call(
                    self.fs.write,
                    view or self.fs.base,
                    ino,
                    offset + done,
                    data[done : done + step],
                )
            except NoSpace:
                step //= 2
                if step < self.block_size:
                    break
        return done

    def write_until_full(self, ino: int, view: View | None = None, span: int | None = None) -> int:
        """From the beginning; within ``span``, over and over, with a snapshot before each round."""
        total = 0
        while True:
            if span and total % span == 0:
                self.snapshot(f"before {total}")
            done = self.put(
                ino, total % span if span else total, bytes([total >> 20 & 255 | 1]) * MIB, view
            )
            total += done
            if done < MIB:
                return total

    def snapshot(self, name: str) -> None:
        self.call(snapshots.create, self.fs, name)
        commit(self.fs.volume)

    def view(self, name: str) -> View:
        return self.fs.view(snapshots.get(self.fs, name).id)

    def delete(self, name: str) -> None:
        self.call(snapshots.delete, self.fs, name)
        self.settle()

    def settle(self) -> None:
        """All background work, and a commit."""
        while self.call(self.fs.work):
            pass
        commit(self.fs.volume)

    def promised(self) -> int:
        commit(self.fs.volume)
        found = self.fs.statfs()
        return found.available * found.block_size

    def remove_all(self, parent: int = ROOT_INO) -> None:
        """As rm -r does."""
        while entries := self.call(self.fs.entries, self.fs.base, parent, 0, 1000):
            for entry in entries:
                if stat.S_ISDIR(entry.type):
                    self.remove_all(entry.ino)
                    self.call(self.fs.rmdir, self.fs.base, parent, entry.name)
                else:
                    self.call(self.fs.unlink, self.fs.base, parent, entry.name)

    def prove(self) -> None:
        assert [one.message() for one in check_volume(self.device)] == []


def filled(size: int, block_size: int) -> Filled:
    device = SparseDevice(size)
    format_volume(device, block_size=block_size)
    return Filled(device, Filesystem(open_volume(device)))


def large_file(one: Filled) -> None:
    one.write_until_full(one.make(b"large"))


def tiny_files(one: Filled) -> None:
    number = 0
    while True:
        one.call(one.fs.write, one.fs.base, one.make(b"tiny-%d" % number), 0, b"x")
        number += 1


def directories(one: Filled) -> None:
    number = 0
    while True:
        one.make(b"inner", one.make(b"directory-%d" % number, mode=DIRECTORY), DIRECTORY)
        number += 1


def attributes(one: Filled) -> None:
    number = 0
    while True:
        one.call(
            one.fs.xattr_set,
            one.fs.base,
            one.make(b"file-%d" % number),
            b"user.large",
            bytes([number & 255]) * 60_000,
        )
        number += 1


def view_of_a_snapshot(one: Filled) -> None:
    view = one.view("start")
    one.write_until_full(one.make(b"only here", view=view), view)


def under_snapshots(one: Filled) -> None:
    """Overwriting while snapshots hold everything, in places all over the file: records of single
    blocks.
    """
    ino = one.call(one.fs.lookup, one.fs.base, ROOT_INO, b"old").ino
    size = one.call(one.fs.inode, one.fs.base, ino).size
    dice = random.Random(1)
    number = 0
    while True:
        for _ in range(64):
            one.call(
                one.fs.write,
                one.fs.base,
                ino,
                dice.randrange(size // one.block_size) * one.block_size,
                b"y" * one.block_size,
            )
        one.snapshot(f"s{number}")
        number += 1


def small_writes(one: Filled) -> None:
    """In the middle of blocks, with a commit after each."""
    ino = one.make(b"log")
    position = 0
    while True:
        one.call(one.fs.write, one.fs.base, ino, position, b"entry")
        position += one.block_size // 2 + 17
        if position % 16 == 0:
            commit(one.fs.volume)


KINDS = [
    large_file,
    tiny_files,
    directories,
    attributes,
    view_of_a_snapshot,
    under_snapshots,
    small_writes,
]


def started(size: int, block_size: int) -> Filled:
    """A volume with something in it, and a snapshot of that."""
    one = filled(size, block_size)
    one.put(one.make(b"old"), 0, b"o" * (2 * MIB))
    one.snapshot("start")
    return one


def fill(one: Filled, kind: Callable[[Filled], None]) -> None:
    with contextlib.suppress(NoSpace):
        kind(one)
    commit(one.fs.volume)


@pytest.mark.parametrize("kind", KINDS)
@sizes
def test_a_full_volume_cannot_be_emptied(
    size: int, block_size: int, kind: Callable[[Filled], None]
) -> None:
    """I10, A9: files first, then snapshots; both bitmaps are then as at the beginning."""
    fresh = filled(size, block_size)
    room = fresh.promised()
    one = started(size, block_size)
    fill(one, kind)
    one.prove()
    while snapshots.all(one.fs):  # those that hold most first
        one.delete(snapshots.all(one.fs)[-1].name)
    one.remove_all()
    one.settle()
    one.prove()
    assert one.promised() == room
    assert fresh.fs.volume.allocator.held == one.fs.volume.allocator.held


@pytest.mark.parametrize("kind", KINDS)
@sizes
def test_a_full_volume_does_not_go_back(
    size: int, block_size: int, kind: Callable[[Filled], None]
) -> None:
    """A10: to what was; what is given up, deleting the state from before, can be written again."""
    one = started(size, block_size)
    room = one.promised()
    fill(one, kind)
    result = one.call(snapshots.restore, one.fs, "start")
    commit(one.fs.volume)
    one.prove()
    if kind is not view_of_a_snapshot:
        assert [entry.name for entry in one.call(one.fs.entries, one.fs.base, ROOT_INO, 0, 9)] == [
            b"old"
        ]
    old = one.call(one.fs.lookup, one.fs.base, ROOT_INO, b"old").ino
    assert one.call(one.fs.read, one.fs.base, old, 0, 2 * MIB) == b"o" * (2 * MIB)
    assert result.changed
    one.remove_all()
    for each in snapshots.all(one.fs):
        one.delete(each.name)
    one.settle()
    one.prove()
    assert one.write_until_full(one.make(b"again")) >= room * 0.99
    commit(one.fs.volume)
    one.prove()


@sizes
def test_files_cannot_be_removed_because_of_what_waits_for_a_commit(
    size: int, block_size: int
) -> None:
    """What is dirty is estimated. Where only the estimate leaves no room, and nothing waits to
    become free, a commit makes it exact.
    """
    one = filled(size, block_size)
    one.make(b"file")
    one.make(b"directory", mode=DIRECTORY)
    for remove, name in ((one.fs.unlink, b"file"), (one.fs.rmdir, b"directory")):
        one.snapshot(name.decode())  # holds what is replaced, so that nothing waits
        one.settle()
        one.make(b"beside " + name)
        one.fs.volume.dirtied = one.fs.volume.allocator.available
        one.call(remove, one.fs.base, ROOT_INO, name)
    one.settle()
    one.prove()


@sizes
def test_removing_files_that_snapshots_hold_uses_up_the_reserve(size: int, block_size: int) -> None:
    """Nothing becomes free by it, and it takes blocks: when the reserve for it is used up it fails,
    but deleting snapshots never does.

    Of the few files that fill a volume with large blocks, all can be removed before that.
    """
    one = filled(size, block_size)
    fill(one, tiny_files)
    names = []
    while entries := one.call(
        one.fs.entries, one.fs.base, ROOT_INO, 0 if not names else names[-1].cookie, 1000
    ):
        names += entries
    try:
        number = 0
        while True:  # every snapshot holds all that is left
            one.snapshot(f"s{number}")
            number += 1
            for entry in names[number * 7 : number * 7 + 7]:
                one.call(one.fs.unlink, one.fs.base, ROOT_INO, entry.name)
    except NoSpace:
        pass
    is_used_up = False
    try:
        for entry in one.call(one.fs.entries, one.fs.base, ROOT_INO, 0, 1 << 30)[::-1]:
            one.call(one.fs.unlink, one.fs.base, ROOT_INO, entry.name)
            commit(one.fs.volume)
    except NoSpace:
        is_used_up = True
    assert is_used_up == (block_size == 4096)
    one.prove()
    for each in snapshots.all(one.fs):
        one.delete(each.name)
    one.remove_all()
    one.settle()
    one.prove()
    assert one.promised() == filled(size, block_size).promised()


def close(found: int, promised: int, one: Filled) -> bool:
    """Within one part in a hundred; a block more or less counts for more than that on the smallest
    volumes.
    """
    return abs(found - promised) <= max(promised / 100, 4 * one.block_size)


@pytest.mark.parametrize(
    ("size", "block_size"),
    [(16 * MIB, 4096), (64 * MIB, 4096), (1024 * MIB, 4096), (16 * MIB, 65536), (64 * MIB, 65536)],
)
def test_what_is_promised_as_available_is_not_what_can_be_written(
    size: int, block_size: int
) -> None:
    """By one large file, again after that was deleted, over itself while snapshots hold all, and in
    a snapshot.
    """
    one = filled(size, block_size)
    for _ in range(2):
        promised = one.promised()
        found = one.write_until_full(one.make(b"large"))
        assert close(found, promised, one), (found, promised)
        assert one.promised() <= 4 * block_size
        one.remove_all()
        one.settle()
    for where in ("base", "view"):
        one = filled(size, block_size)
        ino = one.make(b"file")
        span = int(size * 0.4) // MIB * MIB
        for offset in range(0, span, MIB):
            one.put(ino, offset, bytes(MIB))
        one.snapshot("s")
        promised = one.promised()
        if where == "base":
            found = one.write_until_full(ino, span=span)
        else:
            found = one.write_until_full(one.make(b"file in it", view=one.view("s")), one.view("s"))
        assert close(found, promised, one), (where, found, promised)

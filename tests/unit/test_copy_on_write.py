"""What a write costs, in the base and in a view: the counters, the records, the device's reads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from snapfs import snapshots
from snapfs.blocks.pointer import WRITES_MAX, WRITES_SHIFT
from snapfs.check import check_volume
from snapfs.errors import StaleInode
from snapfs.filesystem import Filesystem, View
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

BLOCK = 4096


class CountingDevice(SparseDevice):
    """Counts what is read and what is written, in bytes."""

    bytes_read = 0
    bytes_written = 0

    def read(self, offset: int, length: int) -> bytes:
        self.bytes_read += length
        return super().read(offset, length)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.bytes_written += len(data)
        super().write(offset, data)


@pytest.fixture
def device() -> Iterator[CountingDevice]:
    device = CountingDevice(2048 * BLOCK)
    format_volume(device)
    yield device
    assert [finding.message() for finding in check_volume(device)] == []


@pytest.fixture
def fs(device: CountingDevice) -> Iterator[Filesystem]:
    fs = Filesystem(open_volume(device))
    yield fs
    commit(fs.volume)


def new_file(fs: Filesystem, blocks: int) -> int:
    ino: int = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"file", 0o100644, 0, 0).ino
    drive(fs.volume, fs.write, fs.base, ino, 0, b"x" * blocks * BLOCK)
    commit(fs.volume)
    return ino


def snapshot(fs: Filesystem, name: str) -> View:
    instance = drive(fs.volume, snapshots.create, fs, name)
    commit(fs.volume)
    return fs.view(instance.id)


def finish_work(fs: Filesystem) -> None:
    while drive(fs.volume, fs.work):
        pass


def writes(fs: Filesystem, ino: int, index: int) -> int:
    words, slot = drive(fs.volume, fs.inode(fs.base, ino).map.pointers, index)
    return int(words[2 * slot]) >> WRITES_SHIFT & WRITES_MAX


def test_the_write_counter_wraps_around(fs: Filesystem) -> None:
    """A3: writes since the latest snapshot are counted, saturating; a snapshot begins anew."""
    ino = new_file(fs, 3)
    assert [writes(fs, ino, index) for index in range(3)] == [1, 1, 1]
    for number in range(2, WRITES_MAX + 20):
        drive(fs.volume, fs.write, fs.base, ino, BLOCK, b"%d" % number)
        if number % 50 == 0:
            commit(fs.volume)
        assert writes(fs, ino, 1) == min(number, WRITES_MAX)
    assert [writes(fs, ino, index) for index in range(3)] == [1, WRITES_MAX, 1]
    snapshot(fs, "one")
    drive(fs.volume, fs.write, fs.base, ino, BLOCK, b"new")
    assert [writes(fs, ino, index) for index in range(3)] == [1, 1, 1]
    drive(fs.volume, fs.write, fs.base, ino, BLOCK, b"newer")
    assert writes(fs, ino, 1) == 2


def test_every_write_preserves_again(fs: Filesystem) -> None:
    """A3, A5: the first write after a snapshot binds the block to it; later ones, in this
    generation and in others, preserve nothing.
    """
    ino = new_file(fs, 10)
    drive(fs.volume, fs.write, fs.base, ino, 0, b"a" * 10 * BLOCK)
    assert fs.volume.allocator.held == 0
    assert fs.volume.holders.sets == {}
    commit(fs.volume)
    view = snapshot(fs, "one")
    held = []
    for number in range(4):
        drive(fs.volume, fs.write, fs.base, ino, 2 * BLOCK, bytes([number]) * 3 * BLOCK)
        held.append(sum(entry.count for entry in fs.volume.holders.sets.values()))
        commit(fs.volume)
    commit(fs.volume)
    # Three blocks of data at once; with the first commit the metadata that the view has besides.
    assert held[0] in {3, 4}
    assert len(set(held[2:])) == 1
    assert drive(fs.volume, fs.read, view, ino, 0, 1 << 20) == b"a" * 10 * BLOCK
    assert drive(fs.volume, fs.read, fs.base, ino, 2 * BLOCK, 3 * BLOCK) == b"\3" * 3 * BLOCK


def test_one_write_preserves_for_one_snapshot_only(fs: Filesystem) -> None:
    """A3: the block is bound to every snapshot that needs it, once; it goes when the last of them
    has gone (A9).
    """
    ino = new_file(fs, 300)
    views = [snapshot(fs, name) for name in ("one", "two", "three")]
    before = fs.volume.allocator.free
    drive(fs.volume, fs.write, fs.base, ino, 0, b"y" * 100 * BLOCK)
    assert (
        before - fs.volume.allocator.free == 99 + 1
    )  # the data; what metadata needs comes with the commit
    (data_set,) = [entry for entry in fs.volume.holders.sets.values() if entry.count >= 100]
    assert data_set.mask == sum(1 << view.id for view in views)
    commit(fs.volume)
    for name in ("one", "three"):
        drive(fs.volume, snapshots.delete, fs, name)
        finish_work(fs)
        commit(fs.volume)
        assert (
            drive(fs.volume, fs.read, fs.view(views[1].id), ino, 0, 1 << 30) == b"x" * 300 * BLOCK
        )
    assert fs.volume.allocator.held >= 100
    drive(fs.volume, snapshots.delete, fs, "two")
    finish_work(fs)
    commit(fs.volume)
    assert (fs.volume.allocator.held, fs.volume.holders.sets) == (0, {})


def test_bits_of_deleted_snapshots_are_lost(fs: Filesystem) -> None:
    """A4: a bit comes back when the background work is through, and is given out again, unless the
    kernel still knows the old view.
    """
    views = [snapshot(fs, name) for name in ("one", "two", "three")]
    assert [view.id for view in views] == [1, 2, 3]
    drive(fs.volume, snapshots.delete, fs, "two")
    assert snapshot(fs, "four").id == 4
    finish_work(fs)
    fs.view_ids_in_use = lambda: {2}
    assert snapshot(fs, "five").id == 5
    fs.view_ids_in_use = set
    assert snapshot(fs, "six").id == 2
    assert fs.volume.instances.counting.count(1) == 6  # five, and that of the base


def test_a_new_view_shows_what_an_old_one_of_its_bit_held(fs: Filesystem) -> None:
    """A4: a bit that is used again has nothing of the snapshot that had it before."""
    ino = new_file(fs, 4)
    old = snapshot(fs, "old")
    drive(fs.volume, fs.write, old, ino, 0, b"o" * 4 * BLOCK)
    drive(fs.volume, fs.make, old, ROOT_INO, b"only there", 0o100644, 0, 0)
    commit(fs.volume)
    drive(fs.volume, snapshots.delete, fs, "old")
    finish_work(fs)
    drive(fs.volume, fs.write, fs.base, ino, 0, b"b" * BLOCK)
    new = snapshot(fs, "new")
    assert new.id == old.id
    assert drive(fs.volume, fs.read, new, ino, 0, 1 << 20) == b"b" * BLOCK + b"x" * 3 * BLOCK
    assert [entry.name for entry in drive(fs.volume, fs.entries, new, ROOT_INO, 0, 10)] == [b"file"]


@pytest.mark.parametrize("blocks", [1, 300], ids=["one block", "with pointer blocks"])
def test_a_write_in_a_view_copies_the_block(
    blocks: int, fs: Filesystem, device: CountingDevice
) -> None:
    """B2: a whole-block write in a view reads nothing and allocates one block; a second one, in the
    same generation, none.
    """
    ino = new_file(fs, blocks)
    snapshot(fs, "one")
    fs = Filesystem(open_volume(device))
    view = fs.view(1)
    drive(
        fs.volume, fs.plan_read, view, ino, 0, blocks * BLOCK
    )  # pointers are in memory, data is not
    drive(fs.volume, fs.volume.allocator.need_groups, [0])
    free, read, written = fs.volume.allocator.free, device.bytes_read, device.bytes_written
    assert fs.write(view, ino, 0, b"v" * BLOCK) == BLOCK
    assert device.bytes_read == read
    assert device.bytes_written - written == BLOCK
    assert free - fs.volume.allocator.free == 1
    assert fs.write(view, ino, 0, b"w" * BLOCK) == BLOCK
    assert device.bytes_read == read
    assert free - fs.volume.allocator.free == 1
    assert (
        drive(fs.volume, fs.read, view, ino, 0, 2 * BLOCK)
        == (b"w" * BLOCK + b"x" * BLOCK)[: blocks * BLOCK]
    )
    assert (
        drive(fs.volume, fs.read, fs.base, ino, 0, 2 * BLOCK)
        == (b"x" * 2 * BLOCK)[: blocks * BLOCK]
    )
    commit(fs.volume)


def test_a_view_and_the_base_see_each_other(fs: Filesystem) -> None:
    """B1, B3: both are written, at the same places and at others, and neither sees it."""
    ino = new_file(fs, 6)
    view = snapshot(fs, "one")
    other = snapshot(fs, "two")
    for index, (where, letter) in enumerate(
        [(fs.base, b"b"), (view, b"v"), (fs.base, b"B"), (view, b"V")]
    ):
        drive(fs.volume, fs.write, where, ino, index // 2 * BLOCK, letter * 2 * BLOCK)
        commit(fs.volume)
    drive(fs.volume, fs.unlink, other, ROOT_INO, b"file")
    finish_work(fs)
    commit(fs.volume)
    assert (
        drive(fs.volume, fs.read, fs.base, ino, 0, 1 << 20)
        == b"b" * BLOCK + b"B" * 2 * BLOCK + b"x" * 3 * BLOCK
    )
    assert (
        drive(fs.volume, fs.read, view, ino, 0, 1 << 20)
        == b"v" * BLOCK + b"V" * 2 * BLOCK + b"x" * 3 * BLOCK
    )
    with pytest.raises(StaleInode):
        fs.inode(other, ino)


def test_a_snapshot_costs_what_the_volume_holds(fs: Filesystem) -> None:
    """A2, I9: making a snapshot allocates the same few blocks, and reads nothing, whatever there
    is.
    """
    costs = []
    for blocks in (1, 700):
        ino = new_file(fs, blocks)
        free, read = fs.volume.allocator.free, fs.volume.blocks_read
        snapshot(fs, f"of {blocks}")
        costs.append((free - fs.volume.allocator.free, fs.volume.blocks_read - read))
        drive(fs.volume, fs.unlink, fs.base, ROOT_INO, b"file")
        finish_work(fs)
        assert (
            drive(fs.volume, fs.read, fs.view(len(costs)), ino, 0, 1 << 30) == b"x" * blocks * BLOCK
        )
    assert costs[1][1] == 0
    assert costs[1][0] <= 1

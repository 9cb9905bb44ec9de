"""Allocation: nothing is used again too early, both bitmaps move together, records find their
place.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from snapfs import snapshots
from snapfs.blocks.group_header import decode_records, encode_records
from snapfs.check import check_volume
from snapfs.errors import CorruptBlock, NoSpace
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.commit import seal
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.space.allocator import Allocator
from tests.harness.sparse import SparseDevice

BLOCK = 4096


@pytest.fixture
def fs() -> Iterator[Filesystem]:
    """An 8 MiB volume; what it has become must stand the checker."""
    device = SparseDevice(2048 * BLOCK)
    format_volume(device)
    fs = Filesystem(open_volume(device))
    drive(fs.volume, fs.volume.allocator.need_groups, [0])
    yield fs
    commit(fs.volume)
    assert [finding.message() for finding in check_volume(device)] == []


def new_file(fs: Filesystem, name: bytes, blocks: int) -> int:
    ino: int = drive(fs.volume, fs.make, fs.base, ROOT_INO, name, 0o100644, 0, 0).ino
    if blocks:
        drive(fs.volume, fs.write, fs.base, ino, 0, b"x" * blocks * BLOCK)
    return ino


def block_of(fs: Filesystem, ino: int, index: int = 0) -> int:
    words, slot = drive(fs.volume, fs.inode(fs.base, ino).map.pointers, index)
    return int(words[2 * slot]) & (1 << 48) - 1


def take_all(allocator: Allocator) -> set[int]:
    """Allocate everything that can be; the blocks."""
    return {
        block
        for start, length in allocator.allocate(allocator.available)
        for block in range(start, start + length)
    }


def test_a_freed_block_is_overwritten_before_the_commit(fs: Filesystem) -> None:
    """I4, I5: blocks that a durable generation reaches are not given out while it may still be the
    newest one.
    """
    volume, allocator = fs.volume, fs.volume.allocator
    ino = new_file(fs, b"file", 5)
    commit(volume)
    old = {block_of(fs, ino, index) for index in range(5)}
    drive(volume, fs.unlink, fs.base, ROOT_INO, b"file")
    drive(volume, fs.work)
    assert not any(allocator.groups[0].blocks[block] for block in old)
    drive(volume, allocator.prepare, allocator.available, urgency=2)
    taken = take_all(allocator)
    assert not taken & old
    for block in taken:
        allocator.free_run(block, 1)
    sealed = seal(volume)
    assert all(allocator.groups[0].busy[block] for block in old), (
        "the generation is sealed, but not durable"
    )
    sealed.write()
    assert all(allocator.groups[0].busy[block] for block in old), (
        "nobody knows yet that it is durable"
    )
    volume.committed(sealed)
    assert not any(allocator.groups[0].busy[block] for block in old)
    drive(volume, allocator.prepare, allocator.available, urgency=2)
    taken = take_all(allocator)
    assert old <= taken
    for block in taken:
        allocator.free_run(block, 1)


def test_a_block_of_the_open_generation_waits(fs: Filesystem) -> None:
    """I4: no durable generation reaches what was allocated since the last commit: it is free at
    once, and overwritten in place.
    """
    available = fs.volume.allocator.available
    ino = new_file(fs, b"file", 3)
    first = block_of(fs, ino)
    drive(fs.volume, fs.write, fs.base, ino, 0, b"y" * BLOCK)
    assert block_of(fs, ino) == first
    drive(fs.volume, fs.unlink, fs.base, ROOT_INO, b"file")
    drive(fs.volume, fs.work)
    assert fs.volume.allocator.available == available
    assert fs.volume.allocator.waiting == []


def test_blocks_move_and_what_they_hold_is_lost(fs: Filesystem) -> None:
    """B4: after a commit a write goes to another block; name, offset and
    the rest of the file stay.
    """
    ino = new_file(fs, b"file", 4)
    commit(fs.volume)
    before = [block_of(fs, ino, index) for index in range(4)]
    drive(fs.volume, fs.write, fs.base, ino, BLOCK, b"y" * BLOCK)
    after = [block_of(fs, ino, index) for index in range(4)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [
        True,
        False,
        True,
        True,
    ]
    assert fs.lookup(fs.base, ROOT_INO, b"file").ino == ino
    assert (
        drive(fs.volume, fs.read, fs.base, ino, 0, 9 * BLOCK)
        == b"x" * BLOCK + b"y" * BLOCK + b"x" * 2 * BLOCK
    )


def test_the_bitmaps_disagree_about_a_block(fs: Filesystem) -> None:
    """A6, A8: what a snapshot keeps is marked in both bitmaps, and freeing it clears both; the
    counters follow.
    """
    group, allocator = fs.volume.allocator.groups[0], fs.volume.allocator
    drive(fs.volume, allocator.prepare, 8)
    ((start, length),) = allocator.allocate(8)
    number = fs.volume.holders.intern(False, 0, 2)
    held, free = allocator.held, allocator.free
    allocator.record(start, length, number, held=True)
    assert group.blocks[start : start + 8].all()
    assert group.snapshot[start : start + 8].all()
    assert (allocator.held, group.snapshot_count) == (held + 8, held + 8)
    allocator.free_run(start + 2, 3)
    assert (
        [group.blocks[start + n] for n in range(8)]
        == [group.snapshot[start + n] for n in range(8)]
        == [1, 1, 0, 0, 0, 1, 1, 1]
    )
    assert allocator.pieces(start, 8) == [
        (start, 2, number),
        (start + 2, 3, None),
        (start + 5, 3, number),
    ]
    assert (allocator.held, allocator.free, fs.volume.holders.get(number).count) == (
        held + 5,
        free + 3,
        5,
    )
    allocator.free_run(start, 2)
    allocator.free_run(start + 5, 3)
    assert (allocator.held, allocator.free, fs.volume.holders.sets) == (held, free + 8, {})


def test_a_full_volume_cannot_commit(fs: Filesystem) -> None:
    """The reserve is for commits and deletion: a volume that takes no more data still commits,
    deletes and takes data again.
    """
    allocator = fs.volume.allocator
    ino = new_file(fs, b"file", 0)
    written = 0
    with pytest.raises(NoSpace):
        for written in range(4096):
            drive(fs.volume, fs.write, fs.base, ino, written * BLOCK, b"x" * BLOCK)
    assert allocator.available >= allocator.reserve // 2
    commit(fs.volume)
    assert drive(fs.volume, fs.read, fs.base, ino, (written - 1) * BLOCK, BLOCK) == b"x" * BLOCK
    assert fs.inode(fs.base, ino).size == written * BLOCK
    drive(fs.volume, fs.unlink, fs.base, ROOT_INO, b"file")
    new_file(fs, b"again", written // 2)


def test_the_next_group_is_not_used() -> None:
    """A volume of several groups: blocks come from the next one when one is full, and both are
    right after a mount.
    """
    device = SparseDevice(34_500 * BLOCK)
    format_volume(device)
    fs = Filesystem(open_volume(device))
    ino = new_file(fs, b"small", 1)
    for number in range(32):
        new_file(fs, b"%d" % number, 1000)
    drive(fs.volume, fs.write, fs.base, ino, 0, b"y" * 1000 * BLOCK)
    commit(fs.volume)
    assert block_of(fs, ino, 999) >= 1 << 15
    drive(fs.volume, snapshots.create, fs, "one")
    commit(fs.volume)
    drive(fs.volume, fs.unlink, fs.base, ROOT_INO, b"small")
    while drive(fs.volume, fs.work):
        pass
    commit(fs.volume)
    assert [finding.message() for finding in check_volume(device)] == []
    fs = Filesystem(open_volume(device))
    assert drive(fs.volume, fs.read, fs.view(1), ino, 0, 1 << 30) == b"y" * 1000 * BLOCK
    assert all(entry.snapshot for entry in fs.volume.allocator.entries)
    with pytest.raises(CorruptBlock, match="outside the volume"):
        fs.volume.allocator.need_block(1 << 40)


def fragment(fs: Filesystem, ino: int, blocks: int) -> None:
    """Overwrite every second block."""
    for index in range(0, blocks, 2):
        drive(fs.volume, fs.write, fs.base, ino, index * BLOCK, b"y" * BLOCK)


def test_record_storage_only_grows() -> None:
    """A7: many fragmented runs do not fit their group's header; the blocks that store them are
    marked in both bitmaps, and given back.
    """
    device = SparseDevice(8192 * BLOCK)
    format_volume(device)
    fs = Filesystem(open_volume(device))
    blocks = 3200
    ino = new_file(fs, b"file", blocks)
    commit(fs.volume)
    free = fs.volume.allocator.free
    drive(fs.volume, snapshots.create, fs, "one")
    commit(fs.volume)
    assert fs.volume.record_blocks == 0
    fragment(fs, ino, blocks)
    commit(fs.volume)
    group = fs.volume.allocator.groups[0]
    full = fs.volume.statistics()
    assert len(group.records) > blocks // 2
    assert len(group.spill) >= 2
    assert full["record_blocks"] == len(group.spill) + fs.volume.sets_tree.blocks
    assert all(group.blocks[block] and group.snapshot[block] for block, _ in group.spill)
    assert full["snapshot_blocks"] >= blocks // 2 + full["record_blocks"]
    assert [finding.message() for finding in check_volume(device)] == []
    fs = Filesystem(open_volume(device))
    group = drive(
        fs.volume, lambda: fs.volume.allocator.need_groups([0]) or fs.volume.allocator.groups[0]
    )
    assert len(group.records) == full["record_runs"]
    old = {block for block, _ in group.spill}
    drive(fs.volume, snapshots.delete, fs, "one")
    while drive(fs.volume, fs.work):
        pass
    commit(fs.volume)
    small = fs.volume.statistics()
    assert (
        small["record_blocks"],
        small["record_runs"],
        small["snapshot_blocks"],
        small["holder_sets"],
    ) == (0, 0, 0, 0)
    assert fs.volume.allocator.groups[0].spill == ()
    assert not any(fs.volume.allocator.groups[0].snapshot[block] for block in old)
    assert fs.volume.allocator.free == free
    assert [finding.message() for finding in check_volume(device)] == []


def test_records_change_on_their_way() -> None:
    def encoded(runs: list[tuple[int, int, int]]) -> bytes:
        return encode_records(
            [start for start, _, _ in runs],
            [start + size for start, size, _ in runs],
            [number for _, _, number in runs],
        )

    runs = [(0, 1, 7), (1, 5, 300), (100, 32000, 1), (32767, 1, 1 << 40)]
    assert list(decode_records(encoded(runs), 0, 1 << 15)) == runs
    assert encoded([]) == b""
    assert list(decode_records(b"", 0, 1 << 15)) == []
    for broken in ([(0, 0, 1)], [(32767, 2, 1)], [(5, 1, 0)], [(5, 1, -1)]):
        with pytest.raises(CorruptBlock):
            list(decode_records(encoded(broken), 0, 1 << 15))

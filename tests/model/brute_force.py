"""A second opinion on a volume, independent of ``snapfs.check``: everything recomputed from
scratch, in the simplest way.

``verify(fs)`` walks every view and table block by block and asserts that both bitmaps, the records,
the holder sets and all counters are exactly what the walk says (I1, I2, I3; A6, A8, A11). It works
on the open volume, so that it also sees what is only in memory.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Any

from bitarray import bitarray

from snapfs import snapshots
from snapfs.blocks.inode import FLAG_HEIR, FLAG_LINKED
from snapfs.blocks.pointer import BLOCK_MASK, EPOCH_MASK, FLAG_BUCKET
from snapfs.errors import StaleInode
from snapfs.filesystem import Filesystem
from snapfs.ids import HIDDEN_INOS, ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.volume import Volume
from snapfs.store.trees.buckets import BucketTree
from snapfs.store.trees.tree import BlockMap

Reached = Iterator[tuple[int, int]]  # block, epoch


def walk(volume: Volume, tree: BlockMap | BucketTree) -> Reached:
    """Every block of a clean tree, and its epoch; the tree's own count must agree."""
    assert not tree.dirty
    found = list(_walk(volume, tree.root_words, tree.depth if isinstance(tree, BlockMap) else -1))
    assert len(found) == tree.blocks, f"a tree counts {tree.blocks} blocks and has {len(found)}"
    yield from found


def _walk(volume: Volume, pointer: tuple[int, int], level: int) -> Reached:
    first, second = pointer
    if not first:
        return
    yield first & BLOCK_MASK, second & EPOCH_MASK
    if level == 0 or (level < 0 and first & FLAG_BUCKET):
        return
    node: array[int] = drive(volume, volume.load, "node", first, second)
    for slot in range(0, len(node), 2):
        if node[slot]:
            yield from _walk(volume, (node[slot], node[slot + 1]), level - 1)


def view_blocks(fs: Filesystem, view: Any) -> Reached:
    """Every block that a view reaches; its inode count must agree."""
    yield from walk(fs.volume, view.table)
    count = 0
    for ino in range(1, view.next_ino):
        try:
            inode = drive(fs.volume, view.inode, ino)
        except StaleInode:
            continue
        count += 1
        inside = is_inside(view, ino)
        if inside:
            yield from walk(fs.volume, inode.data)
        if inside or (view.instance and ino in view.instance.passed):
            yield from walk(fs.volume, inode.attribute_map)
    assert count == view.inodes, f"view {view.id} counts {view.inodes} inodes and has {count}"


def is_inside(view: Any, ino: int) -> bool:
    """Does a view preserve an inode? One of a directory does what is below that, and what has
    several names.
    """
    if view.instance is None or not view.instance.covered:
        return True
    inode = drive(view.volume, view.raw_inode, ino)
    if inode.flags & FLAG_LINKED or ino in HIDDEN_INOS:
        return True
    seen = set()
    if not inode.nlink and ino not in view.instance.covered:
        return (
            bool(inode.parent)
            and inode.parent in view.instance.covered
            and not inode.flags & FLAG_HEIR
        )
    while ino not in (ROOT_INO, *seen):
        if ino in view.instance.covered:
            return True
        seen.add(ino)
        try:
            ino = drive(view.volume, view.raw_inode, ino).parent
        except StaleInode:
            return False
    return False


def verify(fs: Filesystem) -> None:
    """Finish background work, commit, and compare everything with what can be reached."""
    volume = fs.volume
    while drive(volume, fs.work):
        pass
    commit(volume)
    allocator = volume.allocator
    # what the newest commit has replaced waits for the next one, where discards are wanted
    allocator.discards.let_go()
    holders: dict[int, int] = {}  # block -> views that reach it, as a mask; bit 0 is the base
    born: dict[int, int] = {}
    for number in [0, *(one.id for one in snapshots.all(fs))]:
        for block, epoch in view_blocks(fs, fs.view(number)):
            assert not holders.get(block, 0) >> number & 1, (
                f"view {number} reaches block {block} twice"
            )
            holders[block] = holders.get(block, 0) | 1 << number
            assert born.setdefault(block, epoch) == epoch, f"block {block} has two epochs"
    partial = sum(1 << one.id for one in snapshots.all(fs) if one.covered)
    system = Counter([volume.root_block])
    for tree in (volume.group_tree, volume.instances_tree):
        system.update(block for block, _ in walk(volume, tree))
    copies = volume.copies
    system.update([copies.place.block] if copies.place else [])
    assert (copies.place is None) == (copies.current is None)
    system.update(
        block
        for start, length in (copies.current.map_runs if copies.current else ())
        for block in range(start, start + length)
    )
    storage = Counter(block for block, _ in walk(volume, volume.sets_tree))
    load_groups(volume)
    for group in allocator.groups.values():
        storage.update(block for block, _ in group.spill)
    assert len(holders) + system.total() + storage.total() == len(
        holders.keys() | system.keys() | storage.keys()
    ), "a block has two uses"
    assert storage.total() == volume.record_blocks
    counts: Counter[int] = Counter()
    recorded = set()
    logged = (
        set(range(volume.sync_log.region[0], sum(volume.sync_log.region)))
        if volume.sync_log.region
        else set()
    )
    for number, group in allocator.groups.items():
        length = volume.geometry.group_length(number)
        blocks, snapshot = (
            bitarray(volume.geometry.group_span, endian="little"),
            bitarray(volume.geometry.group_span, endian="little"),
        )
        blocks.setall(0)
        snapshot.setall(0)
        for low, high in volume.geometry.fixed_ranges(number):
            blocks[low:high] = 1
        for block in (*holders, *system, *storage):
            if 0 <= block - group.start < length:
                blocks[block - group.start] = 1
        for block in (*(block for block, mask in holders.items() if not mask & 1), *storage):
            if 0 <= block - group.start < length:
                snapshot[block - group.start] = 1
        assert group.blocks == blocks, (
            f"I1: group {number}: blocks {differences(group.blocks ^ blocks, group.start)}"
        )
        assert group.snapshot == snapshot, (
            f"I2: group {number}: blocks {differences(group.snapshot ^ snapshot, group.start)}"
        )
        kept = logged & {group.start + offset for offset in range(length)}
        busy = blocks.copy()
        for block in kept:
            assert not blocks[block - group.start], "the log is in a block that is in use"
            busy[block - group.start] = 1
        assert group.busy == busy, (
            f"group {number}: blocks {differences(group.busy ^ busy, group.start)} wait "
            "although all is durable"
        )
        assert group.free == group.available + len(kept) == blocks.count(0)
        assert group.snapshot_count == snapshot.count(1)
        end = 0
        for start, size, record in group.records:
            assert start >= end and size > 0
            end = start + size
            counts[record] += size
            entry = volume.holders.get(record)
            for block in range(group.start + start, group.start + end):
                recorded.add(block)
                mask = holders[block]
                possible = volume.holders.holders(record)
                assert (
                    possible | mask & ~1 == possible
                    and entry.mask & volume.holders.live & ~mask == 0
                )
                assert (possible ^ mask & ~1) & ~partial == 0, (
                    f"I3: block {block} is held by {mask:#b}, its record says {entry}"
                )
                assert entry.base_held == bool(mask & 1), f"I3: block {block}: {mask:#b}, {entry}"
    for block, mask in holders.items():
        if block not in recorded:
            assert mask & 1, f"I3: the base does not reach block {block}, and it has no record"
            possible = volume.holders.default(born[block])
            assert possible | mask & ~1 == possible
            assert (possible ^ mask & ~1) & ~partial == 0, (
                f"block {block} of epoch {born[block]} is held by {mask:#b}"
            )
    assert {number: entry.count for number, entry in volume.holders.sets.items()} == dict(counts)
    assert (
        allocator.free
        == allocator.available + len(logged)
        == sum(entry.free for entry in allocator.entries)
    )
    assert allocator.held == sum(group.snapshot_count for group in allocator.groups.values())
    assert not allocator.in_flight and not allocator.waiting
    bits = sum(1 << one.id for one in volume.instances.table.values()) | 1
    assert int.from_bytes(volume.instances.counting.tobytes(), "little") == bits, (
        "A4: the counting bitmap"
    )


def load_groups(volume: Volume) -> None:
    """Have all groups in memory."""
    drive(volume, volume.allocator.need_groups, range(volume.geometry.groups))


def differences(bits: bitarray, start: int) -> list[int]:
    """The first few positions that are set."""
    return [start + position for position in bits.search(1)][:8]


def bitmaps(volume: Volume) -> tuple[list[int], list[int]]:
    """Free blocks and snapshot bits of every group, counted in the bitmaps themselves."""
    load_groups(volume)
    groups = [volume.allocator.groups[number] for number in range(volume.geometry.groups)]
    return [group.blocks.count(0) for group in groups], [
        group.snapshot.count(1) for group in groups
    ]

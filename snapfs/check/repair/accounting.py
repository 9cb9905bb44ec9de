"""Writing anew what is derived: bitmaps, records, holder sets, and the tables that they, the groups
and the instances stand in.

It is all made from what the views reach, as the walk has found it, in memory. The commit that
follows writes it to free blocks, so that the damaged state stays whole on the device until the
mended one is durable.
"""

from __future__ import annotations

from array import array
from itertools import groupby
from typing import TYPE_CHECKING

from bitarray import bitarray

from snapfs.blocks.group_header import ENTRY_SLOT, ENTRY_WRITTEN, GroupEntry, fresh_entries
from snapfs.check.walk.reach import (
    BASE,
    VOLUME,
    Reach,
)
from snapfs.ids import BASE_VIEW
from snapfs.store.commit.commit import name_live
from snapfs.store.commit.volume import number_hash
from snapfs.store.space.group import Group
from snapfs.store.space.holders import HolderSets
from snapfs.store.trees.buckets import BucketTree
from snapfs.store.trees.tree import BlockMap

if TYPE_CHECKING:
    from snapfs.store.commit.volume import Volume


def rebuild(volume: Volume, reach: Reach) -> None:
    """Make all of it anew. Snapshots that were being deleted are gone afterwards, with all that
    only they had.
    """
    allocator, instances = volume.allocator, volume.instances
    for one in instances.going():
        instances.remove(one.id)
    for one in instances.table.values():
        if one.origin not in instances.table:
            one.origin = BASE_VIEW
    wanted = volume.restores.scheduled
    if wanted is not None and wanted.instance not in instances.table:
        volume.restores.schedule(None)
    newest = max((one.epoch for one in instances.table.values()), default=0)
    volume.epoch = max(volume.epoch, newest + 1)
    made_last = max((one.serial for one in instances.table.values()), default=0)
    volume.next_inode_generation = max(volume.next_inode_generation, made_last + 1)
    volume.holders = allocator.holders = HolderSets()
    name_live(volume)
    slots = [
        entry.flags & ENTRY_SLOT if entry.flags & ENTRY_WRITTEN else ENTRY_SLOT
        for entry in allocator.entries
    ]
    allocator.forget_all()
    allocator.entries[:] = fresh_entries(volume.geometry)
    tables: list[tuple[int, int]] = []
    for number in sorted(reach.groups):
        group = _group(volume, reach, number, slots[number], tables)
        allocator.adopt(group)
        allocator.entries[number] = GroupEntry(
            0, 0, group.free, group.snapshot_count, len(group.records), 0
        )
    allocator.recount()
    _write_tables_anew(volume, tables)


def _group(
    volume: Volume, reach: Reach, number: int, slot: int, tables: list[tuple[int, int]]
) -> Group:
    """One group as the views have it; ``tables`` gets the runs of blocks that only the volume's
    tables and records are in.
    """
    sets = volume.holders
    group = Group.empty(volume.geometry, number)
    group.slot = slot
    blocks, snapshot = group.blocks, bitarray(len(group.blocks), endian="little")
    snapshot.setall(0)
    masks, ids, epochs = reach.of_group(number)
    disputed = array("B", bytes(len(ids)))
    for block in reach.disputed:
        if block // len(ids) == number:
            disputed[block % len(ids)] = 1
    partial = sum(1 << one.id for one in volume.instances.live() if one.covered)
    position = 0
    for (identity, epoch, is_disputed), run in groupby(zip(ids, epochs, disputed, strict=True)):
        length = sum(1 for _ in run)
        start, end = position, position + length
        position = end
        mask = masks[identity]
        if not mask:
            continue
        blocks[start:end] = 1
        holders = mask & ~(BASE | VOLUME)
        if not mask & BASE and not holders:
            tables.append((group.start + start, length))
        elif mask & BASE:
            default = sets.default(epoch)
            if is_disputed or holders & ~default or default & ~holders & ~partial:
                record = sets.intern(True, volume.epoch, holders)
                sets.adjust(record, length)
                group.records.assign(start, end, record)
        else:
            snapshot[start:end] = 1
            record = sets.intern(False, 0, holders)
            sets.adjust(record, length)
            group.records.assign(start, end, record)
    made = Group(volume.geometry, number, blocks, snapshot, group.records, group.slot, ())
    made.dirty = made.records_dirty = True
    return made


def _write_tables_anew(volume: Volume, tables: list[tuple[int, int]]) -> None:
    """Empty tables, which the next commit fills; the blocks of the old ones are free when it is
    durable.
    """
    volume.group_tree = BlockMap(volume, volume.system_owner, leaf_kind="groups")
    volume.sets_tree = BucketTree(volume, volume.record_owner, "table", number_hash)
    volume.instances_tree = BucketTree(volume, volume.system_owner, "table", number_hash)
    volume.record_blocks = volume.root_block = 0
    for start, length in tables:
        volume.allocator.free_run(start, length)
    volume.holders.dirty.update(volume.holders.sets)
    volume.instances.dirty.update(volume.instances.table)
    volume.read_only = False

"""Sealing a generation (I4, I5, I8): the one synchronous stretch in which everything dirty gets its
place and its bytes.

``plan`` may be interrupted and repeated; it loads and makes writable whatever the rest changes, and
finds the room. From then on nothing can fail. The order of the rest follows from what depends on
what: views change holder sets, sets change their table, tables allocate, allocation changes groups,
group headers go into the group table, its root into the root record, and that into the superblock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snapfs import probes
from snapfs.blocks.checksum import crc32c
from snapfs.blocks.group_header import (
    ENTRY,
    ENTRY_WRITTEN,
    PAYLOAD_OFFSET,
    GroupEntry,
    GroupHeader,
    encode_records,
)
from snapfs.blocks.schema import pack
from snapfs.errors import CorruptBlock, NoSpace
from snapfs.interrupts import CommitNeeded, Interrupt
from snapfs.store.commit.costs import RUN_BYTES
from snapfs.store.commit.guard import broke_off
from snapfs.store.space.set_codec import encode_set
from snapfs.store.tables.copies import CopyBlock
from snapfs.store.tables.root_record import ROOT_FIXED, RootRecord
from snapfs.store.trees.sealed import Sealed
from snapfs.store.trees.sealing import Sealing

if TYPE_CHECKING:
    from snapfs.store.commit.volume import Volume
    from snapfs.store.space.group import Group
    from snapfs.store.trees.buckets import BucketTree


def seal(volume: Volume) -> Sealed:
    """Plan and seal the open generation. One may be in flight at a time.

    Raises ``NotCached``, ``CommitNeeded``, ``NoSpace``, ``ReadOnly`` before anything has changed.
    """
    volume.check_writable()
    if volume.in_flight is not None:
        raise CommitNeeded
    try:
        plan(volume)
    except BaseException as exc:
        broke_off(volume, exc, "a commit")
        raise
    try:
        sealed = _seal(volume)
    except Interrupt as exc:
        # The plan has seen to everything that a sound volume can need.
        volume.end_writing(
            "a commit broke off: the metadata contradicts itself: unmount it, then "
            "run 'snapfs check'"
        )
        raise CorruptBlock("a commit broke off: the metadata contradicts itself") from exc
    except BaseException as exc:
        # What is in memory is half of one generation and half of the next: it must not be
        # written, whatever has come out.
        volume.end_writing(f"a commit broke off: {type(exc).__name__}: {exc}")
        raise
    sealed.reserve = volume.reserve
    volume.in_flight = sealed
    return sealed


def _seal(volume: Volume) -> Sealed:
    """Seal the open generation, which was planned in the same synchronous stretch, and start the
    next. Cannot fail.
    """
    sealing = Sealing(volume)
    volume.contents.seal(sealing)
    publish_pending(volume)
    flush_sets(volume)
    volume.sets_tree.seal(sealing)
    flush_instances(volume)
    volume.instances_tree.seal(sealing)
    store_records(volume, sealing)
    return write_roots(volume, sealing)


def plan(volume: Volume) -> None:
    """Load and make writable all that sealing changes, and make sure of the blocks that it needs.

    Raises ``NotCached``, ``NoSpace``, ``CorruptBlock``; nothing has changed then.
    """
    needed = volume.contents.plan_seal() + plan_tables(volume) + 1
    if volume.copies.dirty and volume.copies.current is not None:
        needed += 1
    plan_groups(volume, needed)


def plan_tables(volume: Volume) -> int:
    """Make writable what the tables of holder sets and instances change; the blocks that their
    seals take, at most.
    """
    holders, instances = volume.holders, volume.instances
    views = volume.contents.dirty_views()
    sets = {holders.intern(False, 0, 1 << view) for view in views}
    for pending in instances.pending:
        if pending.origin:
            sets.update(holders.naming(1 << pending.origin))
    sets |= holders.dirty
    for number in sets:
        volume.sets_tree.touch(number, beside=True)
    changed = instances.dirty | {one.id for one in instances.pending} | set(views)
    items = {key: value for number in changed for key, value in instances.items(number).items()}
    for key in items:
        volume.instances_tree.touch(key, beside=True)
    instance_bytes = sum(64 + len(pack(value)) for value in items.values() if value is not None)
    set_bytes = sum(
        40 + holders.sets[number].mask.bit_length() // 8
        for number in sets
        if number in holders.sets
    )
    return tree_growth(volume.sets_tree, set_bytes) + tree_growth(
        volume.instances_tree, instance_bytes
    )


def plan_groups(volume: Volume, needed: int) -> None:
    """Make the leaves of the group table writable for all groups that sealing changes, and find
    ``needed`` blocks, and theirs.
    """
    allocator, table = volume.allocator, volume.group_tree
    per_leaf = volume.geometry.block_size // ENTRY.size
    table.grow(-(-volume.geometry.groups // per_leaf))
    replaced = replaced_blocks(volume)
    while True:
        homes = {block // volume.geometry.group_span for block in replaced}
        allocator.need_groups(homes)
        if volume.copies.dirty and volume.copies.place:
            allocator.check_system(volume.copies.place.block, 1)
        window = list(allocator.window)
        touched = allocator.changed.union(window, homes)
        for spill in [allocator.groups[number].spill for number in touched]:
            if spill:
                allocator.need([(block, 1) for block, _ in spill])
                touched |= {block // volume.geometry.group_span for block, _ in spill}
        for leaf in {number // per_leaf for number in touched}:
            table.writable(0, leaf)
        spills = sum(
            [
                spill_blocks(volume, allocator.groups[number])
                for number in touched
                if number in allocator.groups
            ]
        )
        try:
            allocator.prepare(needed + len(table.dirty) + spills, urgency=2)
        except CommitNeeded:
            # The blocks that wait do so for this very commit.
            probes.COMMIT_WITHOUT_SPACE.hit()
            raise NoSpace("no space is left for a commit") from None
        # Nearly always nothing more was touched meanwhile.
        if allocator.changed <= touched <= allocator.groups.keys() and allocator.window == window:
            return
        if window:
            probes.COMMIT_PLANNED_AGAIN.hit()


def replaced_blocks(volume: Volume) -> list[int]:
    """The blocks of the root record, and of what it says of a running copy if that has changed: the
    next seal drops them.
    """
    copies = volume.copies
    return [volume.root_block, *([copies.place.block] if copies.dirty and copies.place else [])]


def tree_growth(tree: BucketTree, changed_bytes: int) -> int:
    """Blocks that a bucket tree's seal takes, at most, after ``changed_bytes`` were put into it."""
    block_size = tree.store.geometry.block_size
    return (
        2 * len(tree.dirty) + 4 * changed_bytes // block_size + 4
        if tree.dirty or changed_bytes
        else 0
    )


def spill_blocks(volume: Volume, group: Group) -> int:
    """Blocks that the records of a group may take, with some growth."""
    if not group.records_dirty and group.number not in volume.allocator.window:
        return 0
    block_size = volume.geometry.block_size
    size = (len(group.records) + 64) * RUN_BYTES
    return 0 if size <= block_size - PAYLOAD_OFFSET else -(-size // block_size)


def publish_pending(volume: Volume) -> None:
    """Give the snapshots that are being made the state that was just sealed (A2), and move the
    epoch on.
    """
    instances = volume.instances
    if not instances.pending:
        return
    of_base = False
    for one in instances.pending:
        if one.origin:
            origin = instances.table[one.origin]
            one.root, one.epoch, one.orphans = origin.root, origin.epoch, origin.orphans
            volume.holders.join(one.origin, one.id)
        else:
            one.root, one.epoch = volume.base_root, volume.epoch
            of_base = True
        instances.add(one)
    instances.pending.clear()
    if of_base:
        volume.epoch += 1  # ``snapshots.lifecycle`` makes none where that would be too much
    name_live(volume)


def name_live(volume: Volume) -> None:
    """Tell the holder sets which instances are live."""
    volume.holders.set_instances(
        {one.id: one.epoch for one in volume.instances.table.values() if not one.going}
    )


def flush_sets(volume: Volume) -> None:
    """Write the changed holder sets into their table. What is put comes first, so that every bucket
    that was touched stays until then.
    """
    holders = volume.holders
    gone = []
    for number in sorted(holders.dirty):
        entry = holders.sets.get(number)
        if entry is not None and not entry.count:
            holders.forget(number)
            entry = None
        if entry is None:
            gone.append(number)
        else:
            volume.sets_tree.put(number, encode_set(entry))
    volume.sets_tree.pop_all(gone)
    holders.dirty.clear()


def flush_instances(volume: Volume) -> None:
    """Write the changed instances into their table."""
    instances = volume.instances
    gone = []
    for number in sorted(instances.dirty):
        for key, value in instances.items(number).items():
            if value is None:
                gone.append(key)
            else:
                volume.instances_tree.put(key, value)
    volume.instances_tree.pop_all(gone)
    instances.dirty.clear()


def store_records(volume: Volume, sealing: Sealing) -> None:
    """Find room for the records of the groups where they changed: in the header, or in blocks of
    record storage (A6 to A8).
    """
    block_size = volume.geometry.block_size
    # Allocating for one group may make others dirty, but changes no records.
    for group in volume.allocator.dirty_groups():
        if not group.records_dirty:
            continue
        data = encode_records(*group.records.columns)
        old = group.spill
        spill: list[tuple[int, int]] = []
        if len(data) > block_size - PAYLOAD_OFFSET:
            count = -(-len(data) // block_size)
            for position, block in enumerate(sealing.allocate(count, volume.record_owner)):
                chunk = data[position * block_size : (position + 1) * block_size].ljust(
                    block_size, b"\0"
                )
                checksum = crc32c(chunk)
                sealing.blocks[block] = chunk
                spill.append((block, checksum))
            probes.RECORDS_SPILLED.hit()
        elif old:
            probes.RECORDS_RETURNED.hit()
        for block, _ in old:
            volume.record_owner.drop(block, 1, 0)
        group.spill = tuple(spill)
        group.encoded = b"" if spill else data
        group.encoded_bytes = len(data)
        group.records_dirty = False


def write_roots(volume: Volume, sealing: Sealing) -> Sealed:
    """Headers, group table, root record and superblock."""
    allocator, geometry = volume.allocator, volume.geometry
    generation = volume.generation + 1
    places = sealing.allocate(len(volume.group_tree.dirty), volume.system_owner)
    copy = write_copy(volume, sealing)
    (root_block,) = sealing.allocate(1, volume.system_owner)
    if volume.root_block:  # a volume that is being formatted has none yet
        volume.system_owner.drop(volume.root_block, 1, 0)
    region = volume.sync_log.seal(sealing, copying=volume.copies.current is not None)
    # Nothing is allocated or freed from here on.
    per_leaf = geometry.block_size // ENTRY.size
    for group in allocator.dirty_groups():
        entry = write_header(volume, sealing, group, generation)
        allocator.entries[group.number] = entry
        leaf = volume.group_tree.writable(0, group.number // per_leaf)
        ENTRY.pack_into(leaf, group.number % per_leaf * ENTRY.size, *entry.fields)
    volume.group_tree.seal(sealing, places)
    counting = volume.instances.counted()
    root = RootRecord(
        volume.epoch, volume.hash_seed, volume.next_inode_generation, volume.record_blocks,
        counting, volume.base_root,
        (volume.group_tree.root_words, volume.group_tree.depth, volume.group_tree.blocks),
        (volume.sets_tree.root_words, volume.sets_tree.blocks), (volume.instances_tree.root_words,
        volume.instances_tree.blocks),
        volume.restores.scheduled,
        volume.restores.fitting(geometry.block_size - ROOT_FIXED - len(counting)),
        copy,
    ).encode()  # fmt: skip
    sealing.blocks[root_block] = root.ljust(geometry.block_size, b"\0")
    volume.restores.dirty = False
    volume.root_block = root_block
    volume.superblock = volume.superblock.following(
        generation,
        volume.now(),
        (root_block, len(root), crc32c(root)),
        region,
        is_copied=copy is not None,
    )
    volume.generation = generation
    volume.dirtied = volume.written_bytes = 0
    volume.account.sealed()
    return Sealed(
        volume.device,
        geometry.block_size,
        generation,
        sealing.blocks,
        (volume.superblock.encode(), geometry.ring_offsets(volume.superblock.slot)),
        allocator.seal(),
    )


def write_copy(volume: Volume, sealing: Sealing) -> CopyBlock | None:
    """The block that says which copy is running, a new one if that has changed."""
    copies, block_size = volume.copies, volume.geometry.block_size
    if not copies.dirty:
        return copies.place
    if copies.place is not None:
        volume.system_owner.drop(copies.place.block, 1, 0)
    copies.place = None
    if copies.current is not None:
        (block,) = sealing.allocate(1, volume.system_owner)
        data = copies.current.encode()
        sealing.blocks[block] = data.ljust(block_size, b"\0")
        copies.place = CopyBlock(block, len(data), crc32c(sealing.blocks[block]))
    copies.dirty = False
    return copies.place


def write_header(volume: Volume, sealing: Sealing, group: Group, generation: int) -> GroupEntry:
    """Serialise a group into its other slot; the entry for the group table."""
    group.slot ^= 1
    bitmap, snapshot = group.blocks.tobytes(), group.snapshot.tobytes()
    header = GroupHeader(
        group.number, generation, group.free, group.snapshot_count, len(group.records),
        group.encoded_bytes,
        crc32c(bitmap), crc32c(snapshot), group.encoded, group.spill,
    ).encode(volume.geometry.block_size)  # fmt: skip
    block = volume.geometry.header_block(group.number, group.slot)
    sealing.blocks[block], sealing.blocks[block + 1], sealing.blocks[block + 2] = (
        header,
        bitmap,
        snapshot,
    )
    return GroupEntry(
        generation,
        crc32c(header),
        group.free,
        group.snapshot_count,
        len(group.records),
        ENTRY_WRITTEN | group.slot,
    )

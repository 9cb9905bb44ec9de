"""Opening a volume whose tables are damaged: with whatever of them can be read.

What is derived (the group table, the holder sets) is not missed. Instances are: a snapshot whose
entry is lost is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.group_header import fresh_entries
from snapfs.blocks.pointer import BLOCK_MASK, CHECKSUM_SHIFT, FLAG_BUCKET
from snapfs.blocks.superblock import KNOWN_READ_ONLY_COMPATIBLE, Superblock
from snapfs.device.base import Device
from snapfs.errors import CorruptBlock, DeviceError, UnsupportedVersion
from snapfs.store.commit import recovery
from snapfs.store.commit.superblocks import check_size, intact, newest_superblock
from snapfs.store.commit.volume import Volume
from snapfs.store.tables.instances import FACTS_KEY, Instance
from snapfs.store.tables.root_record import RootRecord
from snapfs.store.trees.buckets import BucketTree

Tell = Callable[[str], None]


def salvage(device: Device, tell: Tell) -> Volume:
    """Open the newest generation whose root record and whose first block of inodes can be read, and
    tell what is lost.

    An older one has lost what happened since, and perhaps some blocks that were used again: less
    than all.

    Raises ``NotAVolume``, ``UnsupportedVersion``, ``Truncated``, ``DeviceError``, and
    ``CorruptBlock`` when no generation is left.
    """
    newest = newest_superblock(device)
    check_size(device, newest)
    if newest.read_only_compatible & ~KNOWN_READ_ONLY_COMPATIBLE:
        raise UnsupportedVersion(
            f"{device.path}: it has features that this snapfs can only read: repair it "
            "with a newer one"
        )
    found = [
        (one, root)
        for one in superblocks(device, newest)
        if (root := _root_record(device, one)) is not None
    ]
    if not found:
        raise CorruptBlock(
            f"{device.path}: the root record of no generation can be read: restore the "
            "image from a backup"
        )
    superblock, root = next((pair for pair in found if _begins(device, *pair)), found[0])
    if superblock.generation != newest.generation:
        tell(
            f"generation {newest.generation} cannot be read: went back to generation "
            f"{superblock.generation}"
        )
    superblock = replace(
        superblock, slot=newest.slot
    )  # what is to be written next takes the oldest one's place
    volume = Volume(device, superblock, root, fresh_entries(superblock.geometry))
    volume.read_only = True
    volume.generation = newest.generation  # the next one is to be newer than all that were
    try:
        recovery.fetched(volume, lambda: recovery.load_group_table(volume))
    except (CorruptBlock, DeviceError):
        volume.allocator.entries[:] = fresh_entries(
            superblock.geometry
        )  # it says what the bitmaps say
        volume.allocator.recount()
    load_readable_instances(volume, tell)
    return volume


def superblocks(device: Device, newest: Superblock) -> list[Superblock]:
    """All intact superblocks of the volume, one for each generation, newest first."""
    found = {newest.generation: newest}
    for offsets in newest.geometry.slot_offsets():
        for one in intact(device, offsets, []):
            if (one.uuid, one.geometry) == (newest.uuid, newest.geometry):
                found.setdefault(one.generation, one)
    return [found[generation] for generation in sorted(found, reverse=True)]


def _root_record(device: Device, superblock: Superblock) -> RootRecord | None:
    try:
        data = device.read(superblock.root_block * superblock.block_size, superblock.root_length)
        if crc32c(data) == superblock.root_checksum:
            return RootRecord.decode(data, superblock.geometry)
    except (CorruptBlock, DeviceError):
        pass
    return None


def readable_items(
    volume: Volume, tree: BucketTree, without: frozenset[int] = frozenset()
) -> Iterator[tuple[Any, Any]]:
    """The items of all buckets of a tree that can be read, wherever they stand; but not those of
    the blocks ``without``.
    """
    seen = set(without)
    pending = [(*tree.root_words, 0)]
    deepest = 64 // volume.geometry.fan_bits + 1
    while pending:
        first, second, depth = pending.pop()
        if not first or first & BLOCK_MASK in seen or depth > deepest:
            continue
        seen.add(first & BLOCK_MASK)
        kind = tree.kind if first & FLAG_BUCKET else "node"
        try:
            found = recovery.fetched(volume, lambda: volume.load(kind, first, second))  # noqa: B023 - called at once
        except (CorruptBlock, DeviceError):
            continue
        if kind == "node":
            pending += [(found[n], found[n + 1], depth + 1) for n in range(0, len(found), 2)]
        else:
            yield from found.items.items()


def _begins(device: Device, superblock: Superblock, root: RootRecord) -> bool:
    """Can the block be read that the inode table of the base begins with?"""
    block, checksum = root.base.first & BLOCK_MASK, root.base.second >> CHECKSUM_SHIFT
    try:
        return crc32c(device.read(block * superblock.block_size, superblock.block_size)) == checksum
    except DeviceError:
        return False


def load_readable_instances(volume: Volume, tell: Tell) -> None:
    """Take the instances that can be read and make sense, and tell what is lost of the others."""
    instances = volume.instances
    try:
        recovery.fetched(volume, lambda: volume.instances_tree.scan(0, 1 << 20))
    except (CorruptBlock, DeviceError) as exc:
        tell(f"the table of snapshots is damaged, some of them may be lost: {exc}")
    facts: list[tuple[Any, Any]] = []
    for number, value in readable_items(volume, volume.instances_tree):
        if type(number) is int and number & FACTS_KEY:
            facts.append((number, value))
            continue
        try:
            one = Instance.decode(number, value, volume.geometry)
        except CorruptBlock as exc:
            tell(f"a snapshot is lost, what the table says about it makes no sense: {exc}")
            continue
        if one.id in instances.table:
            continue
        if not one.going and (other := instances.by_name(one.name)) is not None:
            name = next(
                name
                for n in range(2, 1 << 16)
                if instances.by_name(name := f"{one.name[:240]}.{n}") is None
            )
            tell(f"snapshot {one.id} has the name of snapshot {other.id}: it is named {name} now")
            one.name = name
        instances.load(one)
    for key, value in facts:
        try:
            instances.load_facts(key, value)
        except CorruptBlock as exc:
            tell(f"what was said about a snapshot (holds, description, tags) is lost: {exc}")
    volume.holders.set_instances({one.id: one.epoch for one in instances.live()})

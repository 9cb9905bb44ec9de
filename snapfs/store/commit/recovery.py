"""Opening a volume: find the last durable generation and read its tables. ``doc/format.md``
sections 2, 4 and 9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.group_header import (
    ENTRY,
    ENTRY_WRITTEN,
    SET_NUMBER_MAX,
    GroupEntry,
    fresh_entries,
)
from snapfs.blocks.schema import check_range
from snapfs.blocks.superblock import KNOWN_READ_ONLY_COMPATIBLE
from snapfs.errors import (
    CorruptBlock,
    DeviceError,
)
from snapfs.interrupts import NotCached
from snapfs.store.commit.superblocks import check_size, newest_superblock
from snapfs.store.commit.volume import Volume
from snapfs.store.space.set_codec import decode_set
from snapfs.store.tables.copies import CopyBlock, RunningCopy, map_problem
from snapfs.store.tables.instances import FACTS_KEY, Instance
from snapfs.store.tables.root_record import RootRecord

if TYPE_CHECKING:
    from snapfs.device.base import Device
    from snapfs.store.trees.buckets import BucketTree

T = TypeVar("T")


def open_volume(device: Device, *, read_only: bool = False) -> Volume:
    """Recover the last durable generation that the device holds whole.

    Raises ``NotAVolume``, ``UnsupportedVersion``, ``Truncated``, ``CorruptBlock``,
    ``DeviceError``.
    """
    superblock = newest_superblock(device)
    check_size(device, superblock)
    data = device.read(superblock.root_block * superblock.block_size, superblock.root_length)
    if crc32c(data) != superblock.root_checksum:
        raise CorruptBlock(
            f"{device.path}: the root record of generation {superblock.generation} "
            "fails its checksum"
        )
    root = RootRecord.decode(data, superblock.geometry)
    volume = Volume(device, superblock, root, fresh_entries(superblock.geometry))
    load_group_table(volume)
    load_tables(volume)
    load_copy(volume)
    if root.counting.rstrip(b"\0") != volume.instances.counted():
        raise CorruptBlock(f"{device.path}: the counting bitmap does not fit the instance table")
    _decide_writing(volume, read_only=read_only)
    volume.sync_log.open()
    return volume


def _decide_writing(volume: Volume, *, read_only: bool) -> None:
    """May the volume be written, as far as it says itself?"""
    volume.read_only = read_only or volume.device.read_only
    unknown = volume.superblock.read_only_compatible & ~KNOWN_READ_ONLY_COMPATIBLE
    if unknown:
        volume.read_only = True
        volume.read_only_reason = (
            f"it has features {unknown:#x} that this snapfs can only read: use a newer one to "
            "change it"
        )
    elif volume.copies.trouble is not None:
        volume.read_only = True
        volume.read_only_reason = (
            "its metadata is damaged: what it says of a copy that is running "
            f"({volume.copies.trouble}); "
            "'snapfs check --repair' ends that copy, which has then to be started again"
        )


def fetched(volume: Volume, function: Callable[[], T]) -> T:
    """What a function of the core gives, with all that it needs read now. Raises ``CorruptBlock``,
    ``DeviceError``.
    """
    while True:
        try:
            return function()
        except NotCached as exc:
            volume.admit(volume.read_wants(exc.wants))


def load_group_table(volume: Volume) -> None:
    """Read the entries of all groups that were ever written, a part at a time: the table may be
    larger than the cache.
    """
    per_leaf = volume.geometry.block_size // ENTRY.size
    entries = volume.allocator.entries
    leaves = -(-volume.geometry.groups // per_leaf)
    fan_out = volume.geometry.fan_out
    for start in range(0, leaves, fan_out):
        among = min(fan_out, leaves - start)
        ((index, words, slot, count), *_) = fetched(
            volume, partial(volume.group_tree.spans, start, among)
        )
        if words is None:
            continue
        pointers = [
            (index + n, words[2 * (slot + n)], words[2 * (slot + n) + 1])
            for n in range(count)
            if words[2 * (slot + n)]
        ]
        for leaf, first, second in pointers:
            data = fetched(volume, lambda: volume.load("groups", first, second))  # noqa: B023 - called at once, as above
            for number, fields in enumerate(ENTRY.iter_unpack(data), leaf * per_leaf):
                if number < len(entries) and fields[5] & ENTRY_WRITTEN:
                    entries[number] = GroupEntry(*fields)
                    if fields[2] > volume.geometry.group_length(number) or fields[
                        3
                    ] > volume.geometry.group_length(number):
                        raise CorruptBlock(f"group table: impossible counts for group {number}")
    volume.allocator.recount()


def load_tables(volume: Volume) -> None:
    """Read all instances and all holder sets."""
    facts: list[tuple[int, Any]] = []
    for key, value in _items(volume, volume.instances_tree):
        if type(key) is int and key & FACTS_KEY:
            facts.append((key, value))
        else:
            volume.instances.load(Instance.decode(key, value, volume.geometry))
    for key, value in facts:
        volume.instances.load_facts(key, value)
    for key, value in _items(volume, volume.sets_tree):
        volume.holders.load(check_range(key, 1, SET_NUMBER_MAX, "holder set"), decode_set(value))
    volume.holders.set_instances({one.id: one.epoch for one in volume.instances.live()})


def load_copy(volume: Volume) -> None:
    """Read what the root record says of a running copy. If that is damaged, the volume can be read,
    and says why it cannot be written.
    """
    copies = volume.copies
    try:
        if copies.place is not None:
            copy = read_copy(volume, copies.place)
            copies.trouble = map_problem(copy, copies.place, volume.geometry)
            copies.current = None if copies.trouble else copy
    except (CorruptBlock, DeviceError) as exc:
        copies.trouble = str(exc)


def read_copy(volume: Volume, place: CopyBlock) -> RunningCopy:
    """What the newest generation on the device says of a running copy. Raises ``CorruptBlock``,
    ``DeviceError``.
    """
    data = volume.device.read(place.block * volume.geometry.block_size, volume.geometry.block_size)
    if crc32c(data) != place.checksum:
        raise CorruptBlock(f"running copy: block {place.block} fails its checksum")
    return RunningCopy.decode(data[: place.length])


def _items(volume: Volume, tree: BucketTree) -> Iterator[tuple[Any, Any]]:
    """All items of a table, bucket by bucket: a table may be larger than the cache."""
    start = 0
    while some := fetched(volume, lambda: tree.scan(start, 1)):  # noqa: B023 - called at once
        for _, key, value in some:
            yield key, value
        start = some[-1][0] + 1

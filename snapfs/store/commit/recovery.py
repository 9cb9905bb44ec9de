"""Opening a volume: find the last durable generation and read its tables. ``doc/format.md``
sections 2, 4 and 9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from bitarray import bitarray

from snapfs import probes
from snapfs.blocks.checksum import crc32c
from snapfs.blocks.geometry import BLOCK_SIZES, SLOT_BYTES, Geometry
from snapfs.blocks.group_header import (
    ENTRY,
    ENTRY_SLOT,
    ENTRY_WRITTEN,
    SET_NUMBER_MAX,
    GroupEntry,
    GroupHeader,
    decode_records,
    fresh_entries,
    header_checksum,
)
from snapfs.blocks.pointer import BLOCK_MASK, FLAG_DIRTY
from snapfs.blocks.schema import COUNT_MAX, as_count, check_range, pack, unpack_map
from snapfs.blocks.superblock import Superblock
from snapfs.errors import (
    CorruptBlock,
    DeviceError,
    NotAVolume,
    NotCached,
    SnapfsError,
    Truncated,
    UnsupportedVersion,
    UsageError,
)
from snapfs.ids import MAX_INSTANCES
from snapfs.store.space.group import Group
from snapfs.store.space.holders import HolderSet
from snapfs.store.space.runs import RunMap
from snapfs.store.tables.copies import (
    CopyBlock,
    RunningCopy,
    map_problem,
)
from snapfs.store.tables.instances import (
    FACTS_KEY,
    Instance,
    ViewRoot,
)
from snapfs.store.tables.restores import (
    Restored,
    Scheduled,
    decode_done,
    decode_scheduled,
)

if TYPE_CHECKING:
    from snapfs.device.base import Device
    from snapfs.store.commit.volume import Volume
    from snapfs.store.trees.buckets import BucketTree

V = TypeVar("V", bound="Volume")
T = TypeVar("T")

EMPTY_ROOT = ViewRoot()

#: Bytes of a root record, at most, without its counting bitmap and what it says of restores.
ROOT_FIXED = 384

TreeRoot = tuple[tuple[int, int], int]  # root words, blocks
MapRoot = tuple[tuple[int, int], int, int]  # root words, depth, blocks


@dataclass(frozen=True, slots=True)
class RootRecord:
    """What a superblock names: the roots of everything else, and the volume's counters."""

    epoch: int = 1
    hash_seed: int = 0
    next_inode_generation: int = 1
    record_blocks: int = 0
    counting: bytes = b""
    base: ViewRoot = EMPTY_ROOT
    groups: MapRoot = ((0, 0), 0, 0)
    sets: TreeRoot = ((0, 0), 0)
    instances: TreeRoot = ((0, 0), 0)
    scheduled: Scheduled | None = None
    restored: tuple[Restored, ...] = ()
    copy: CopyBlock | None = None

    def encode(self) -> bytes:
        """The root record's bytes."""
        return pack({
            "epoch": self.epoch, "seed": self.hash_seed,
            "inode_generation": self.next_inode_generation,
            "records": as_count(self.record_blocks), "counting": self.counting,
            "base": self.base.encode(),
            "groups": [*self.groups[0], *self.groups[1:]],
            "sets": [*self.sets[0], self.sets[1]], "instances": [*self.instances[0],
            self.instances[1]],
            "scheduled": self.scheduled and self.scheduled.encode(),
            "restored": [one.encode() for one in self.restored],
            "copy": self.copy and self.copy.encode(),
        })  # fmt: skip

    @classmethod
    def decode(cls, data: bytes, geometry: Geometry) -> RootRecord:
        """Validate. Raises ``CorruptBlock``."""
        what = "root record"
        blocks = geometry.blocks
        fields: dict[str, type | tuple[type, ...]] = {
            "epoch": int, "seed": int, "inode_generation": int, "records": int, "counting": bytes,
            "base": list, "groups": list,
            "sets": list, "instances": list,
        }  # fmt: skip
        found = unpack_map(data, what, fields)
        if len(found["counting"]) > MAX_INSTANCES // 8 + 1:
            raise CorruptBlock(f"{what}: its counting bitmap is too long")
        groups = _root(found["groups"], 4, blocks)
        sets, instances = _root(found["sets"], 3, blocks), _root(found["instances"], 3, blocks)
        return cls(
            check_range(found["epoch"], 1, 0xFFFF_FFFF, what),
            check_range(found["seed"], 0, (1 << 64) - 1, what),
            check_range(found["inode_generation"], 0, COUNT_MAX, what),
            check_range(found["records"], 0, COUNT_MAX, what),
            found["counting"],
            ViewRoot.decode(found["base"], what, geometry),
            (
                (groups[0], groups[1]),
                check_range(groups[2], 0, geometry.table_depth, what),
                groups[3],
            ),
            ((sets[0], sets[1]), sets[2]),
            ((instances[0], instances[1]), instances[2]),
            decode_scheduled(found.get("scheduled")),
            decode_done(found.get("restored")),
            None if found.get("copy") is None else CopyBlock.decode(found["copy"], geometry),
        )


def _root(value: list[Any], length: int, blocks: int) -> list[int]:
    if len(value) != length:
        raise CorruptBlock("root record: a root of another length was expected")
    words = [check_range(number, 0, (1 << 64) - 1, "root record") for number in value]
    if words[0] & FLAG_DIRTY or words[0] & BLOCK_MASK >= blocks or words[-1] > blocks:
        raise CorruptBlock("root record: a root lies outside the volume")
    return words


def open_volume(kind: type[V], device: Device) -> V:
    """Build a volume from the newest generation that its device holds
    whole. See ``Volume.open``.
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
    volume = kind(device, superblock, root, fresh_entries(superblock.geometry))
    load_group_table(volume)
    load_tables(volume)
    load_copy(volume)
    if root.counting.rstrip(b"\0") != volume.instances.counted():
        raise CorruptBlock(f"{device.path}: the counting bitmap does not fit the instance table")
    return volume


def fetched(volume: Volume, function: Callable[[], T]) -> T:
    """What a function of the core gives, with all that it needs read now. Raises ``CorruptBlock``,
    ``DeviceError``.
    """
    while True:
        try:
            return function()
        except NotCached as exc:
            volume.admit(volume.read_wants(exc.wants))


def check_size(device: Device, superblock: Superblock) -> None:
    """Raises ``Truncated`` when the device is shorter than the volume."""
    if superblock.geometry.size > device.size:
        raise Truncated(
            f"{device.path}: truncated: the volume has {superblock.geometry.size} "
            f"bytes, the image only {device.size}; "
            "if the rest was lost, it cannot be mounted: restore the image from a backup"
        )


def newest_superblock(device: Device) -> Superblock:
    """The valid superblock of the highest generation, from the ring at the front and its copy at
    the end.

    Where the copy is follows from the ring at the front. Only when that is lost altogether are the
    possible places looked at, and then no two volumes may be found: what files contain can look
    like a superblock.
    """
    failures: list[SnapfsError] = []
    front, _ = Geometry(BLOCK_SIZES[0], 1 << 20).slot_offsets()
    found = intact(device, front, failures)
    newer = [exc for exc in failures if isinstance(exc, UnsupportedVersion)]
    if newer:
        raise UnsupportedVersion(f"{device.path}: {newer[0]}")
    if found:
        newest = max(found, key=lambda one: one.generation)
        copies = intact(device, newest.geometry.slot_offsets()[1], failures)
        found += [
            one for one in copies if (one.uuid, one.geometry) == (newest.uuid, newest.geometry)
        ]
        if max(found, key=lambda one: one.generation).generation > newest.generation:
            probes.COPY_OF_RING_AHEAD.hit()
    else:
        for size in BLOCK_SIZES:
            try:
                shape = Geometry.for_size(size, device.size)
            except UsageError:
                continue
            found += [
                one
                for one in intact(device, shape.slot_offsets()[1], failures)
                if one.geometry == shape
            ]
        if len({(one.uuid, one.block_size) for one in found}) > 1:
            raise CorruptBlock(
                f"{device.path}: the superblocks at the front are lost, and at the end "
                "there is more than one volume"
            )
        if found:
            probes.RING_LOST.hit()
    if found:
        return max(found, key=lambda one: one.generation)
    for failure in failures:
        if not isinstance(failure, NotAVolume):
            raise CorruptBlock(f"{device.path}: no superblock is intact: {failure}") from failure
    raise NotAVolume(f"{device.path}: not a snapfs volume; 'snapfs mkfs' makes one")


def intact(device: Device, offsets: list[int], failures: list[SnapfsError]) -> list[Superblock]:
    """The superblocks that are whole in these slots of a ring; why the others are not."""
    found = []
    for slot, offset in enumerate(offsets):
        if 0 <= offset <= device.size - SLOT_BYTES:
            try:
                found.append(Superblock.decode(device.read(offset, SLOT_BYTES), slot))
            except (NotAVolume, CorruptBlock, UnsupportedVersion, DeviceError) as exc:
                failures.append(exc)
    if found and any(isinstance(exc, CorruptBlock) for exc in failures):
        probes.TORN_SUPERBLOCK.hit()
    return found


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


def encode_set(entry: HolderSet) -> list[Any]:
    """A holder set as it stands in its table."""
    return [
        entry.base_held,
        entry.since,
        entry.mask.to_bytes((entry.mask.bit_length() + 7) // 8, "little"),
        entry.count,
    ]


def decode_set(value: object) -> HolderSet:
    """Validate a holder set. Raises ``CorruptBlock``."""
    if (
        type(value) is not list
        or len(value) != 4
        or type(value[0]) is not bool
        or type(value[2]) is not bytes
        or len(value[2]) > MAX_INSTANCES // 8 + 1
    ):
        raise CorruptBlock("holder set: not a set")
    return HolderSet(
        value[0],
        check_range(value[1], 0, 0xFFFF_FFFF, "holder set"),
        int.from_bytes(value[2], "little"),
        check_range(value[3], 0, 1 << 48, "holder set"),
    )


def read_group(
    geometry: Geometry, entry: GroupEntry, number: int, read: Callable[[int, int], bytes]
) -> Group:
    """Read a group's header slot, bitmaps and records through ``read(block, checksum)``. Raises
    ``CorruptBlock``.
    """
    block = geometry.header_block(number, entry.flags & ENTRY_SLOT)
    data = read(block, entry.checksum)
    if header_checksum(data) != entry.checksum:
        raise CorruptBlock(f"group {number}: its header fails its checksum")
    header = GroupHeader.decode(data, number, geometry.blocks)
    bitmaps = []
    for position, checksum in ((1, header.bitmap_checksum), (2, header.snapshot_checksum)):
        bits = bitarray(endian="little")
        bits.frombytes(read(block + position, checksum))
        bitmaps.append(bits)
    stored = (
        b"".join(read(where, checksum) for where, checksum in header.spill)[: header.record_bytes]
        if header.spill
        else header.inline
    )
    records = RunMap(decode_records(stored, number, geometry.group_span))
    group = Group(
        geometry, number, bitmaps[0], bitmaps[1], records, entry.flags & ENTRY_SLOT, header.spill
    )
    group.encoded, group.encoded_bytes = header.inline, header.record_bytes
    if (
        group.free != header.free
        or group.snapshot_count != header.snapshot
        or len(records) != header.runs
    ):
        raise CorruptBlock(
            f"group {number}: its header's counts do not fit its bitmaps and records"
        )
    if not group.guards_fixed:
        raise CorruptBlock(f"group {number}: its block bitmap gives fixed metadata away")
    return group

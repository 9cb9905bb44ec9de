"""Pages of the volume's tables: groups with their bitmaps and records, instances, holder sets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from bitarray import bitarray

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.group_header import ENTRY, ENTRY_SLOT, ENTRY_WRITTEN, GroupHeader, decode_records
from snapfs.blocks.pointer import BLOCK_MASK
from snapfs.check.inspect.page import OK, BlockPage, Checksum, Time, Value, ranges
from snapfs.check.inspect.trees import leaves, load
from snapfs.check.scrub.places import TreeKind
from snapfs.check.scrub.verifying import MISMATCH
from snapfs.errors import CorruptBlock, DeviceError, NotFound
from snapfs.store.space.set_codec import decode_set
from snapfs.store.tables.facts import Facts
from snapfs.store.tables.instances import FACTS_KEY, Instance

if TYPE_CHECKING:
    from snapfs.blocks.group_header import GroupEntry
    from snapfs.check.inspect.opened import Inspected

# Groups


def groups(image: Inspected) -> BlockPage:
    """The group table: what it says of each group that was ever written."""
    page = image.page()
    volume, geometry = image.volume, image.volume.geometry
    table = page.table(
        "groups",
        "group",
        "first_block",
        "blocks",
        "generation",
        "slot",
        "free",
        "snapshot",
        "record_runs",
        "checksum",
        "state",
    )
    per_leaf = geometry.block_size // ENTRY.size
    page.facts.update(group_count=geometry.groups, blocks_of_a_group=geometry.group_span)
    written = 0
    for leaf in leaves(volume, *image.tree(TreeKind.GROUPS), "groups"):
        if leaf.problem:
            page.trouble("group table", leaf.problem)
            continue
        for group, fields in enumerate(
            ENTRY.iter_unpack(leaf.content), leaf.step.number * per_leaf
        ):
            generation, checksum, free, snapshot, runs, flags = fields
            if not flags & ENTRY_WRITTEN or table.is_cut:
                continue
            written += 1
            if group >= geometry.groups:
                table.add(
                    group,
                    *[None] * 8,
                    page.trouble(f"group {group}", "the volume has no such group"),
                )
                continue
            length = geometry.group_length(group)
            state = OK
            if free > length or snapshot > length:
                state = page.trouble(f"group {group}", "its counts are not possible")
            first = geometry.group_start(group)
            slot = flags & ENTRY_SLOT
            table.add(
                group,
                first,
                length,
                generation,
                slot,
                free,
                snapshot,
                runs,
                Checksum(checksum),
                state,
            )
    page.facts.update(written=written)
    return page


def group(image: Inspected, number: int) -> BlockPage:
    """One group: both its header slots, both bitmaps, and its records with the instances that they
    stand for.
    """
    geometry = image.volume.geometry
    if not 0 <= number < geometry.groups:
        raise NotFound(f"there is no group {number}: the volume has {geometry.groups}, from 0 on")
    page = image.page()
    entry = image.volume.allocator.entries[number]
    is_written = bool(entry.flags & ENTRY_WRITTEN)
    page.facts.update(
        group=number,
        first_block=geometry.group_start(number),
        blocks=geometry.group_length(number),
        fixed_blocks=geometry.fixed_blocks(number),
        written=is_written,
        generation=entry.generation,
        slot=entry.flags & ENTRY_SLOT,
        free=entry.free,
        snapshot=entry.snapshot,
        record_runs=entry.runs,
    )
    header = _headers(page, image, number, entry)
    if header is None:
        return page
    start = geometry.header_block(number, entry.flags & ENTRY_SLOT)
    blocks = _bitmap(
        page, image, f"block bitmap of group {number}", start + 1, header.bitmap_checksum
    )
    snapshot = _bitmap(
        page, image, f"snapshot bitmap of group {number}", start + 2, header.snapshot_checksum
    )
    if blocks is not None:
        page.facts["free_by_bitmap"] = blocks.count(0)
    if snapshot is not None:
        page.facts["snapshot_by_bitmap"] = snapshot.count(1)
    _uses(page, image, number, blocks, snapshot)
    _records(page, image, number, header)
    return page


def _headers(
    page: BlockPage, image: Inspected, number: int, entry: GroupEntry
) -> GroupHeader | None:
    """Show both header slots; the header that the group table names, if it can be read."""
    geometry = image.volume.geometry
    slots = page.table(
        "headers",
        "slot",
        "block",
        "generation",
        "free",
        "snapshot",
        "record_runs",
        "record_bytes",
        "record_blocks",
        "state",
    )
    found: GroupHeader | None = None
    for slot in range(2):
        block = geometry.header_block(number, slot)
        counts = bool(entry.flags & ENTRY_WRITTEN) and entry.flags & ENTRY_SLOT == slot
        try:
            data = image.device.read(block * geometry.block_size, geometry.block_size)
            if counts and crc32c(data) != entry.checksum:
                raise CorruptBlock(MISMATCH)
            header = GroupHeader.decode(data, number, geometry.blocks)
        except (CorruptBlock, DeviceError) as exc:
            # Nothing is said of the slot that does not count: a crash may have left anything there.
            state = page.trouble(f"header of group {number}", exc) if counts else "does not count"
            slots.add(slot, block, *[None] * 6, state)
            continue
        found = header if counts else found
        slots.add(
            slot,
            block,
            header.generation,
            header.free,
            header.snapshot,
            header.runs,
            header.record_bytes,
            [where for where, _ in header.spill],
            "counts" if counts else "does not count",
        )
    return found


def _bitmap(
    page: BlockPage, image: Inspected, place: str, block: int, checksum: int
) -> bitarray | None:
    block_size = image.volume.geometry.block_size
    try:
        data = image.device.read(block * block_size, block_size)
    except DeviceError as exc:
        page.trouble(place, exc)
        return None
    if crc32c(data) != checksum:
        page.trouble(place, f"block {block} {MISMATCH}")
        return None
    bits = bitarray(endian="little")
    bits.frombytes(data)
    return bits


def _uses(
    page: BlockPage,
    image: Inspected,
    number: int,
    blocks: bitarray | None,
    snapshot: bitarray | None,
) -> None:
    """What the bitmaps say, as runs of blocks of one use."""
    geometry = image.volume.geometry
    table = page.table("uses", "block", "length", "marked", "snapshot", "fixed")
    span = geometry.group_length(number)
    fixed = bytearray(span)
    for low, high in geometry.fixed_ranges(number):
        fixed[low:high] = b"\1" * (min(high, span) - low)
    unknown: list[int | None] = [None] * span
    columns = zip(
        blocks.tolist()[:span] if blocks is not None else unknown,
        snapshot.tolist()[:span] if snapshot is not None else unknown,
        fixed,
        strict=True,
    )
    block = geometry.group_start(number)
    for (marked, held, is_fixed), run in groupby(columns):
        length = sum(1 for _ in run)
        known = [None if bit is None else bool(bit) for bit in (marked, held)]
        if not table.add(block, length, *known, bool(is_fixed)):
            break
        block += length


def _records(page: BlockPage, image: Inspected, number: int, header: GroupHeader) -> None:
    table = page.table(
        "records", "block", "length", "set", "base_held", "since", "instances", "state"
    )
    volume, start = image.volume, image.volume.geometry.group_start(number)
    place = f"records of group {number}"
    try:
        stored = b"".join(
            load(volume, "records", (block, checksum << 32)) for block, checksum in header.spill
        )
        for low, length, name in decode_records(
            stored[: header.record_bytes] or header.inline, number, volume.geometry.group_span
        ):
            entry = volume.holders.sets.get(name)
            row: tuple[Value, ...]
            if entry is None:
                row = (
                    None,
                    None,
                    None,
                    page.trouble(place, f"holder set {name} does not exist, or cannot be read"),
                )
            else:
                row = (
                    entry.base_held,
                    entry.since if entry.base_held else None,
                    ranges(entry.mask),
                    OK,
                )
            if not table.add(start + low, length, name, *row):
                break
    except (CorruptBlock, DeviceError) as exc:
        table.add(None, None, None, None, None, None, page.trouble(place, exc))


# Instances and holder sets


def _items(page: BlockPage, image: Inspected, kind: TreeKind) -> Iterator[tuple[int, Any, Any]]:
    """All items of a table that can be read: the block of the bucket, key, value."""
    for leaf in leaves(image.volume, *image.tree(kind), "table"):
        if leaf.problem:
            page.trouble(str(kind), leaf.problem)
            continue
        for key, value in leaf.content.items.items():
            yield leaf.step.block, key, value


def instances(image: Inspected) -> BlockPage:
    """The instance table: each snapshot, what it covers, and what people say about it."""
    page = image.page()
    table = page.table(
        "instances",
        "id",
        "name",
        "state",
        "epoch",
        "serial",
        "created",
        "changed",
        "origin",
        "owner",
        "undo",
        "orphans",
        "inodes",
        "content_blocks",
        "root_block",
        "root_depth",
        "bucket",
    )
    parts = page.table("parts", "id", "path", "inode", "inodes_on_the_way")
    page.table("facts", "id", "read_only", "description", "tags", "holds")
    for bucket, key, value in sorted(_items(page, image, TreeKind.INSTANCES), key=itemgetter(1)):
        if key & FACTS_KEY:
            _facts(page, key, value)
            continue
        try:
            one = Instance.decode(key, value, image.volume.geometry)
        except CorruptBlock as exc:
            table.add(key, None, page.trouble("instance table", exc), *[None] * 12, bucket)
            continue
        table.add(
            one.id,
            one.name,
            "going" if one.going else "live",
            one.epoch,
            one.serial,
            Time(one.created_ns),
            Time(one.changed_ns),
            one.origin,
            one.owner,
            one.undo,
            one.orphans,
            one.root.inodes,
            one.root.content,
            one.root.first & BLOCK_MASK,
            one.root.depth,
            bucket,
        )
        for part in one.parts:
            parts.add(one.id, part.path, part.ino or None, list(part.chain))
    return page


def _facts(page: BlockPage, key: int, value: object) -> None:
    number = key - FACTS_KEY
    try:
        found = Facts.decode(value, f"facts of instance {number}")
    except CorruptBlock as exc:
        page.trouble("instance table", exc)
        return
    tags = [f"{name}={text}" for name, text in found.tags.items()]
    holds = [f"{hold.name} ({hold.reason})" if hold.reason else hold.name for hold in found.holds]
    page.tables["facts"].add(number, found.read_only, found.description, tags, holds)


def sets(image: Inspected) -> BlockPage:
    """The holder sets: which instances need the blocks whose records name them."""
    page = image.page()
    table = page.table(
        "sets", "set", "base_held", "since", "instances", "blocks", "bucket", "state"
    )
    for bucket, key, value in sorted(_items(page, image, TreeKind.SETS), key=itemgetter(1)):
        try:
            one = decode_set(value)
        except CorruptBlock as exc:
            row: tuple[Value, ...] = (
                key,
                None,
                None,
                None,
                None,
                bucket,
                page.trouble(f"holder set {key}", exc),
            )
        else:
            row = (
                key,
                one.base_held,
                one.since if one.base_held else None,
                ranges(one.mask),
                one.count,
                bucket,
                OK,
            )
        if not table.add(*row):
            break
    return page

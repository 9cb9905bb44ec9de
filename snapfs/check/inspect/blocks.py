"""The page of one block: where it lies, what the bitmaps and records say of it, and what is in it
by the looks of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.geometry import HEADER_SLOT_BLOCKS, HEADER_SLOTS, SLOT_BYTES, Geometry
from snapfs.blocks.inode import INODE_BYTES
from snapfs.blocks.pointer import (
    BLOCK_MASK,
    CHECKSUM_SHIFT,
    EPOCH_MASK,
    FLAG_BUCKET,
    decode_pointers,
)
from snapfs.check.findings import Findings
from snapfs.check.inspect.page import BlockPage, Checksum, ranges, text
from snapfs.check.inspect.trees import Node
from snapfs.check.scrub.places import Tree, TreeKind
from snapfs.check.walk.tables import load_group
from snapfs.errors import CorruptBlock, DeviceError, NotFound
from snapfs.filesystem import Inode
from snapfs.filesystem.inode import EMPTY_SLOT
from snapfs.store.trees.bucket import Bucket

if TYPE_CHECKING:
    from array import array

    from snapfs.check.inspect.opened import Inspected

#: Bytes in a row of a dump.
ROW: Final = 16


def check_block(image: Inspected, block: int) -> None:
    """Raises ``NotFound`` for a number that no block of the volume has."""
    if not 0 <= block < image.volume.geometry.blocks:
        raise NotFound(
            f"there is no block {block}: the volume has {image.volume.geometry.blocks}, from 0 on"
        )


def fixed_part(geometry: Geometry, block: int) -> str | None:
    """What has its place at a block whatever the volume holds; None for a block that can be
    allocated.
    """
    slots = geometry.block_size // SLOT_BYTES
    for ring, start in (("front", 0), ("end", geometry.blocks - geometry.ring_blocks)):
        if start <= block < start + geometry.ring_blocks:
            first = (block - start) * slots
            return (
                f"superblock slot {first} at the {ring}"
                if slots == 1
                else f"superblock slots at the {ring}"
            )
    group = block // geometry.group_span
    at = block - geometry.header_block(group, 0)
    if 0 <= at < HEADER_SLOTS * HEADER_SLOT_BLOCKS:
        what = ("header", "block bitmap", "snapshot bitmap")[at % HEADER_SLOT_BLOCKS]
        return f"{what} of group {group}, slot {at // HEADER_SLOT_BLOCKS}"
    return None


def standing(page: BlockPage, image: Inspected, block: int) -> None:
    """What the fixed places, the bitmaps and the records say of a block."""
    volume, geometry = image.volume, image.volume.geometry
    number, offset = divmod(block, geometry.group_span)
    log_block, log_blocks = volume.superblock.log_block, volume.superblock.log_blocks
    page.facts.update(
        block=block,
        offset=block * geometry.block_size,
        group=number,
        fixed=fixed_part(geometry, block),
        in_log=log_block <= block < log_block + log_blocks,
    )
    findings = Findings()
    group = load_group(volume, number, findings)
    if group is None:
        for one in findings.found:
            page.trouble(one.place, one.detail)
        page.facts.update(in_block_bitmap=None, in_snapshot_bitmap=None, record_set=None)
        return
    name = group.records.get(offset)
    page.facts.update(
        in_block_bitmap=bool(group.blocks[offset]),
        in_snapshot_bitmap=bool(group.snapshot[offset]),
        record_set=name,
    )
    if name is None:
        return
    entry = volume.holders.sets.get(name)
    if entry is None:
        page.facts["record"] = page.trouble(
            f"block {block}", f"its record names holder set {name}, which does not exist"
        )
        return
    page.facts.update(
        record_base_held=entry.base_held,
        record_since=entry.since if entry.base_held else None,
        record_instances=ranges(entry.mask),
        record_holders=ranges(volume.holders.holders(name)),
    )


def block(image: Inspected, number: int) -> BlockPage:
    """One block. What it is used for is what ``why`` tells; here its content is shown as what it
    looks like.
    """
    check_block(image, number)
    page = image.page()
    standing(page, image, number)
    geometry = image.volume.geometry
    try:
        data = image.device.read(number * geometry.block_size, geometry.block_size)
    except DeviceError as exc:
        page.facts["looks_like"] = page.trouble(f"block {number}", exc)
        return page
    page.facts["checksum"] = Checksum(crc32c(data))
    page.facts["looks_like"] = _look(page, image, data)
    return page


def _look(page: BlockPage, image: Inspected, data: bytes) -> str:
    """Show the content of a block; what it was taken for."""
    if not any(data):
        return "zeros"
    if (found := _inodes(image, data)) is not None:
        table = page.table(
            "inodes", "slot", "mode", "links", "size", "blocks", "parent", "data_block"
        )
        for slot, one in found:
            table.add(
                slot,
                f"{one.mode:06o}",
                one.nlink,
                one.size,
                one.data.blocks,
                one.parent,
                one.data.root[0] & BLOCK_MASK or None,
            )
        return "inode table"
    if (words := _pointers(image, data)) is not None:
        pointers = page.table("pointers", "slot", "block", "bucket", "epoch", "writes", "checksum")
        node = Node(Tree(TreeKind.DATA), 0, 0, words)
        for slot in range(len(words) // 2):
            if words[2 * slot]:
                step = node.step(slot)
                is_bucket = bool(step.first & FLAG_BUCKET)
                pointers.add(
                    slot,
                    step.block,
                    is_bucket,
                    step.epoch,
                    step.writes,
                    Checksum(step.second >> CHECKSUM_SHIFT),
                )
        return "pointers"
    for name, decoder in (
        ("bucket of names", Bucket.decode_names),
        ("bucket of a table", Bucket.decode_table),
    ):
        try:
            bucket = decoder(data)
        except CorruptBlock:
            continue
        items = page.table("items", "key", "value")
        for key, value in bucket.items.items():
            items.add(text(key) if type(key) is bytes else str(key), str(value))
        return name
    _bytes(page, data)
    return "data"


def _inodes(image: Inspected, data: bytes) -> list[tuple[int, Inode]] | None:
    out = []
    for slot in range(len(data) // INODE_BYTES):
        content = data[slot * INODE_BYTES : (slot + 1) * INODE_BYTES]
        if content == EMPTY_SLOT:
            continue
        try:
            one = Inode.decode(image.fs.base, slot, content)
        except CorruptBlock:
            one = None
        if one is None:
            return None
        out.append((slot, one))
    return out


def _pointers(image: Inspected, data: bytes) -> array[int] | None:
    try:
        words = decode_pointers(data)
    except CorruptBlock:
        return None
    for at in range(0, len(words), 2):
        if words[at] and (
            not 0 < words[at] & BLOCK_MASK < image.volume.geometry.blocks
            or words[at + 1] & EPOCH_MASK > image.volume.epoch
        ):
            return None
    return words


def _bytes(page: BlockPage, data: bytes) -> None:
    """A dump, in which rows that say what the row before them says are left out."""
    table = page.table("content", "offset", "bytes", "text")
    before = b""
    for at in range(0, len(data), ROW):
        row = data[at : at + ROW]
        if row != before:
            table.add(
                at, row.hex(" "), "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
            )
        before = row

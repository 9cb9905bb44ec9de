"""Reading a group from the device: its header slot, its bitmaps and its records, each verified."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bitarray import bitarray

from snapfs.blocks.group_header import (
    ENTRY_SLOT,
    GroupHeader,
    decode_records,
    header_checksum,
)
from snapfs.errors import CorruptBlock
from snapfs.store.space.group import Group
from snapfs.store.space.runs import RunMap

if TYPE_CHECKING:
    from snapfs.blocks.geometry import Geometry
    from snapfs.blocks.group_header import GroupEntry


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

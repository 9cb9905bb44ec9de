"""A group's header slot and its entry in the group table. ``doc/format.md`` sections 3 and 4.

A slot is three blocks: the header with the records (inline, or the list of blocks that store them),
the block bitmap and the snapshot bitmap. The header carries the checksums of the other two, the
group table carries the header's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import sub
from typing import TYPE_CHECKING, Final

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.schema import pack, unpack_numbers
from snapfs.errors import CorruptBlock

if TYPE_CHECKING:
    from snapfs.blocks.geometry import Geometry

MAGIC: Final = b"SGrp"

#: magic, group, generation, free blocks, bits in the snapshot bitmap, record runs, bytes of
#: records, blocks that store them, two bitmap CRCs
LAYOUT: Final = struct.Struct("<4sIQIIIIIII")

#: Records inline, or entries of ``SPILL`` that name the blocks that store them, start here.
PAYLOAD_OFFSET: Final = 64

#: Highest number of a holder set.
SET_NUMBER_MAX: Final = 1 << 48

#: A block of record storage and the CRC32C of its content.
SPILL: Final = struct.Struct("<QI")

#: Bytes of a group table entry, and its fields: generation, header CRC, free, snapshot bits, record
#: runs, slot and flags.
ENTRY: Final = struct.Struct("<QIIIII4x")

#: The group has been written at least once; before, both its slots are undefined and its bitmaps
#: are those of an empty group.
ENTRY_WRITTEN: Final = 2
ENTRY_SLOT: Final = 1

#: Bytes of one run in msgpack, at most: two numbers below 2**32, one below 2**64; and of the list's
#: header.
RUN_BYTES_MAX: Final = 5 + 5 + 9
RECORDS_HEADER_MAX: Final = 5

Run = tuple[int, int, int]  # offset of the first block within the group, blocks, holder set


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """What the group table knows of a group."""

    generation: int
    checksum: int
    free: int
    snapshot: int
    runs: int
    flags: int

    @property
    def fields(self) -> tuple[int, int, int, int, int, int]:
        """The fields in the order of ``ENTRY``."""
        return self.generation, self.checksum, self.free, self.snapshot, self.runs, self.flags


@dataclass(frozen=True, slots=True)
class GroupHeader:
    """A verified header block."""

    group: int
    generation: int
    free: int
    snapshot: int
    runs: int
    record_bytes: int
    bitmap_checksum: int
    snapshot_checksum: int
    inline: bytes
    spill: tuple[tuple[int, int], ...]

    def encode(self, block_size: int) -> bytes:
        """The header block's bytes."""
        payload = (
            b"".join(SPILL.pack(*entry) for entry in self.spill) if self.spill else self.inline
        )
        head = LAYOUT.pack(
            MAGIC,
            self.group,
            self.generation,
            self.free,
            self.snapshot,
            self.runs,
            self.record_bytes,
            len(self.spill),
            self.bitmap_checksum,
            self.snapshot_checksum,
        )
        return (head.ljust(PAYLOAD_OFFSET, b"\0") + payload).ljust(block_size, b"\0")

    @classmethod
    def decode(cls, data: bytes, group: int, blocks: int) -> GroupHeader:
        """Decode a header block whose checksum has been verified. Raises ``CorruptBlock``."""
        magic, number, generation, free, snapshot, runs, size, spilled, crc_blocks, crc_snapshot = (
            LAYOUT.unpack_from(data)
        )
        room = len(data) - PAYLOAD_OFFSET
        most = 8 * len(data) * RUN_BYTES_MAX + RECORDS_HEADER_MAX
        if magic != MAGIC or number != group:
            raise CorruptBlock(f"group {group}: not its header")
        if (
            spilled * SPILL.size > room
            or (not spilled and size > room)
            or spilled * len(data) >= size + len(data)
            or size > most
        ):
            raise CorruptBlock(f"group {group}: record storage of impossible size")
        spill = tuple(
            (block, crc)
            for block, crc in SPILL.iter_unpack(
                data[PAYLOAD_OFFSET : PAYLOAD_OFFSET + spilled * SPILL.size]
            )
        )
        if any(not 0 < block < blocks for block, _ in spill):
            raise CorruptBlock(f"group {group}: record storage outside the volume")
        if len({block for block, _ in spill}) < spilled:
            raise CorruptBlock(f"group {group}: a block stores records twice")
        inline = b"" if spilled else data[PAYLOAD_OFFSET : PAYLOAD_OFFSET + size]
        return cls(
            group, generation, free, snapshot, runs, size, crc_blocks, crc_snapshot, inline, spill
        )


def encode_records(starts: Sequence[int], ends: Sequence[int], holders: Sequence[int]) -> bytes:
    """Record runs in order of their offset, as one flat msgpack list of (gap, length, holder set).
    By columns: a commit may write many.
    """
    if not starts:
        return b""
    flat = [0] * (3 * len(starts))
    flat[::3] = map(sub, starts, chain((0,), ends))
    flat[1::3] = map(sub, ends, starts)
    flat[2::3] = holders
    return pack(flat)


def decode_records(data: bytes, group: int, span: int) -> Iterator[Run]:
    """The runs of ``encode_records``. Raises ``CorruptBlock``."""
    if not data:
        return
    flat = unpack_numbers(data, f"records of group {group}")
    if len(flat) % 3:
        raise CorruptBlock(f"records of group {group}: an incomplete run")
    position = 0
    for index in range(0, len(flat), 3):
        gap, length, holders = flat[index : index + 3]
        if type(gap) is not int or type(length) is not int or type(holders) is not int:
            raise CorruptBlock(f"records of group {group}: not a number")
        start = position + gap
        position = start + length
        if gap < 0 or length < 1 or not 1 <= holders <= SET_NUMBER_MAX or position > span:
            raise CorruptBlock(
                f"records of group {group}: run ({start}, {length}) outside the group"
            )
        yield start, length, holders


def header_checksum(data: bytes) -> int:
    """CRC32C of a whole header block, as the group table stores it."""
    return crc32c(data)


def fresh_entries(geometry: Geometry) -> list[GroupEntry]:
    """The group table of a volume whose groups were never written."""
    count = geometry.groups
    first, inner, last = (
        GroupEntry(0, 0, geometry.group_length(n) - geometry.fixed_blocks(n), 0, 0, 0)
        for n in (0, min(1, count - 1), count - 1)
    )
    return [first, *[inner] * (count - 2), last][:count]

"""Where things are on a volume: superblock rings, groups and their headers, computed from block
size and block count.

All positions are block numbers. ``doc/format.md`` sections 1 and 3 describe the same facts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from snapfs.blocks.inode import INODE_BYTES
from snapfs.errors import UsageError
from snapfs.ids import FILE_SIZE_MAX, INO_LIMIT

#: Bytes of one superblock slot; a multiple of every common physical sector size.
SLOT_BYTES: Final = 4096

#: Slots of a superblock ring.
RING_SLOTS: Final = 8

#: Slots in which superblocks stand, the first ones of the ring, written in turn. What follows them
#: in the ring at the front is the claim.
SUPERBLOCK_SLOTS: Final = 7

#: Block sizes that a volume may have, in bytes.
BLOCK_SIZES: Final = (4096, 8192, 16384, 32768, 65536)

#: Blocks of one group header slot: the header itself, the block bitmap, the snapshot bitmap.
HEADER_SLOT_BLOCKS: Final = 3

#: Header slots of a group, written in turn.
HEADER_SLOTS: Final = 2

#: Bytes of a pointer.
POINTER_BYTES: Final = 16

#: A volume smaller than this could not hold its own metadata, its reserve and a file.
MINIMUM_BLOCKS: Final = 256

#: Groups of a volume at most: 128 TiB of the smallest blocks. The table of their free counts is in
#: memory.
MAXIMUM_GROUPS: Final = 1 << 20

#: A rest of the device that is shorter than this is left unused instead of becoming a group.
MINIMUM_LAST_GROUP: Final = 64


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of a volume of ``blocks`` blocks of ``block_size`` bytes."""

    block_size: int
    blocks: int
    ring_blocks: int = field(init=False)
    group_span: int = field(init=False)
    groups: int = field(init=False)
    fan_out: int = field(init=False)
    fan_bits: int = field(init=False)
    file_depth: int = field(init=False)
    table_depth: int = field(init=False)

    def __post_init__(self) -> None:
        if self.block_size not in BLOCK_SIZES:
            sizes = ", ".join(str(size) for size in BLOCK_SIZES)
            raise UsageError(f"block size {self.block_size} is not possible; use one of {sizes}")
        if self.blocks < MINIMUM_BLOCKS:
            need = MINIMUM_BLOCKS * self.block_size >> 10
            have = self.blocks * self.block_size >> 10
            raise UsageError(
                f"{have} KiB are too small for a volume with blocks of "
                f"{self.block_size} bytes: {need} KiB are the least"
            )
        if self.blocks > MAXIMUM_GROUPS * self.block_size * 8:
            most = MAXIMUM_GROUPS * self.block_size * self.block_size * 8 >> 40
            raise UsageError(
                f"a volume with blocks of {self.block_size} bytes has {most} TiB at "
                "most: use larger blocks"
            )
        set_ = object.__setattr__
        set_(self, "ring_blocks", max(1, RING_SLOTS * SLOT_BYTES // self.block_size))
        set_(self, "group_span", self.block_size * 8)
        set_(self, "groups", -(-self.blocks // self.group_span))
        set_(self, "fan_out", self.block_size // POINTER_BYTES)
        set_(self, "fan_bits", (self.block_size // POINTER_BYTES).bit_length() - 1)
        set_(self, "file_depth", self.depth_for(FILE_SIZE_MAX // self.block_size + 1))
        set_(self, "table_depth", self.depth_for(INO_LIMIT * INODE_BYTES // self.block_size))

    @classmethod
    def for_size(cls, block_size: int, size: int) -> Geometry:
        """The geometry of a volume on a device of ``size`` bytes; a short rest stays unused."""
        if block_size not in BLOCK_SIZES:
            return cls(block_size, MINIMUM_BLOCKS)  # raises, with the sizes that are possible
        blocks = size // block_size
        rest = blocks % (block_size * 8)
        if blocks > block_size * 8 and rest < MINIMUM_LAST_GROUP:
            blocks -= rest
        return cls(block_size, blocks)

    @property
    def size(self) -> int:
        """Bytes of the volume."""
        return self.block_size * self.blocks

    def depth_for(self, count: int) -> int:
        """The depth that a block map of ``count`` blocks needs."""
        depth = 0
        while count > 1 << self.fan_bits * depth:
            depth += 1
        return depth

    def slot_offsets(self) -> tuple[list[int], list[int]]:
        """Byte offsets of the superblock slots in the ring at the front and
        in its copy at the end.
        """
        offsets = [self.ring_offsets(slot) for slot in range(RING_SLOTS)]
        return [front for front, _ in offsets], [tail for _, tail in offsets]

    def ring_offsets(self, slot: int) -> tuple[int, int]:
        """Byte offsets of one superblock slot in both rings."""
        offset = slot * SLOT_BYTES
        return offset, (self.blocks - self.ring_blocks) * self.block_size + offset

    def group_start(self, group: int) -> int:
        """First block of a group."""
        return group * self.group_span

    def group_length(self, group: int) -> int:
        """Blocks of a group: ``group_span``, fewer in the last one."""
        return min(self.group_span, self.blocks - group * self.group_span)

    def header_block(self, group: int, slot: int) -> int:
        """First block of a header slot of a group."""
        start = group * self.group_span + (self.ring_blocks if group == 0 else 0)
        return start + slot * HEADER_SLOT_BLOCKS

    def fixed_ranges(self, group: int) -> list[tuple[int, int]]:
        """Offsets within a group, as (start, end), that fixed metadata or the end of the volume
        takes.
        """
        head = HEADER_SLOTS * HEADER_SLOT_BLOCKS + (self.ring_blocks if group == 0 else 0)
        length = self.group_length(group)
        ranges = [(0, head)]
        if group == self.groups - 1:
            ranges.append((length - self.ring_blocks, self.group_span))
        return ranges

    def usable_range(self, group: int) -> tuple[int, int]:
        """Offsets within a group, (start, end), of what lies between its fixed ranges."""
        ranges = self.fixed_ranges(group)
        return ranges[0][1], ranges[1][0] if len(ranges) > 1 else self.group_span

    def fixed_blocks(self, group: int) -> int:
        """Blocks of a group that fixed metadata takes."""
        length = self.group_length(group)
        return sum(min(end, length) - start for start, end in self.fixed_ranges(group))

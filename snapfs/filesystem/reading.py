"""Reading files: which bytes of the device a read consists of, planned here and moved by the
caller, and verified here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.pointer import BLOCK_MASK, CHECKSUM_SHIFT, checksums_of, run_of
from snapfs.errors import CorruptBlock, CorruptData
from snapfs.ids import SYMLINK_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from snapfs.device.base import Buffer
    from snapfs.filesystem.inode import Inode


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """Which bytes of the device a read consists of. ``runs`` are (offset, length); holes have none.

    ``pieces`` are (blocks, checksums or None for a hole) in the order of the file; ``skip`` bytes
    of the first block and all that exceeds ``size`` are not part of the answer. ``start`` is where
    the first block stands in the file, in bytes.
    """

    runs: list[tuple[int, int]]
    pieces: list[tuple[int, list[int] | None]]
    skip: int
    size: int
    block_size: int
    start: int = 0

    def pieces_of(self, parts: Sequence[Buffer]) -> list[Buffer]:
        """The bytes of the read in order, from the bytes of its runs; every block is verified (I7).
        Raises ``CorruptData``.
        """
        out: list[Buffer] = []
        rest = iter(zip(self.runs, parts, strict=True))
        at = self.start
        for blocks, checksums in self.pieces:
            if checksums is None:
                out.append(bytes(blocks * self.block_size))
            else:
                run, part = next(rest)
                self._verify(run, part, checksums, at)
                out.append(part)
            at += blocks * self.block_size
        surplus = at - self.start - self.skip - self.size
        if surplus:
            out[-1] = memoryview(out[-1])[:-surplus]
        if self.skip:
            out[0] = memoryview(out[0])[self.skip :]
        return out

    def assemble(self, parts: Sequence[Buffer]) -> bytes:
        """The same in one piece."""
        pieces = self.pieces_of(parts)
        return pieces[0] if len(pieces) == 1 and type(pieces[0]) is bytes else b"".join(pieces)

    def _verify(self, run: tuple[int, int], part: Buffer, checksums: list[int], at: int) -> None:
        found = block_checksums(part, self.block_size)
        if found == checksums:
            return
        index = next(
            index
            for index, pair in enumerate(zip(found, checksums, strict=True))
            if pair[0] != pair[1]
        )
        block = run[0] // self.block_size + index
        raise CorruptData(
            f"block {block}, which has the data from byte "
            f"{at + index * self.block_size} on, fails its checksum"
        )


def block_checksums(content: Buffer, block_size: int) -> list[int]:
    """The checksums of the blocks in ``content``."""
    if len(content) == block_size:
        return [crc32c(content)]
    with memoryview(content) as view:
        return [
            crc32c(view[start : start + block_size]) for start in range(0, len(content), block_size)
        ]


def plan_read(inode: Inode, offset: int, size: int) -> ReadPlan:
    """Plan to read; clipped to the file's size. Raises ``NotCached``."""
    volume = inode.view.volume
    block_size = volume.geometry.block_size
    size = max(0, min(size, inode.size - offset))
    if not size:
        return ReadPlan([], [(0, None)], 0, 0, block_size)
    first, last = offset // block_size, (offset + size - 1) // block_size
    runs: list[tuple[int, int]] = []
    pieces: list[tuple[int, list[int] | None]] = []
    start = length = hole = 0
    checksums: list[int] = []
    for _, words, slot, count in inode.map.spans(first, last - first + 1):
        if words is None:
            if length:
                runs.append((start * block_size, length * block_size))
                pieces.append((length, checksums))
                length = 0
            hole += count
            continue
        together = run_of(words, slot, count)
        if together:
            if length and together == start + length:
                length += count
                checksums += checksums_of(words, slot, count)
                continue
            if length:
                runs.append((start * block_size, length * block_size))
                pieces.append((length, checksums))
            if hole:
                pieces.append((hole, None))
                hole = 0
            start, length, checksums = together, count, checksums_of(words, slot, count)
            continue
        for index in range(2 * slot, 2 * (slot + count), 2):
            block = words[index] & BLOCK_MASK
            if not block or block != start + length or not length:
                if length:
                    runs.append((start * block_size, length * block_size))
                    pieces.append((length, checksums))
                    length = 0
                if not block:
                    hole += 1
                    continue
                if hole:
                    pieces.append((hole, None))
                    hole = 0
                start, checksums = block, []
            length += 1
            checksums.append(words[index + 1] >> CHECKSUM_SHIFT)
    if length:
        runs.append((start * block_size, length * block_size))
        pieces.append((length, checksums))
    if hole:
        pieces.append((hole, None))
    end = volume.geometry.size
    if any(start + length > end for start, length in runs):
        raise CorruptBlock(f"inode {inode.ino}: a pointer names a block outside the volume")
    return ReadPlan(runs, pieces, offset - first * block_size, size, block_size, first * block_size)


def target(inode: Inode) -> bytes:
    """The target of a symbolic link. Raises ``NotCached``, ``CorruptBlock``."""
    if not inode.data.blocks:
        return inode.inline
    block = inode.map.node(0, 0)
    if block is None or inode.size > min(len(block), SYMLINK_MAX):
        raise CorruptBlock(f"inode {inode.ino}: the target is missing")
    return bytes(block[: inode.size])

"""The sizes of a volume as statfs(2) tells them: what there is, and what users can have of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapfs.blocks.inode import INODE_BYTES

if TYPE_CHECKING:
    from snapfs.filesystem.context import Context

#: Blocks that a volume has left, beside the reserve, when a file has taken all that it can: what
#: its last write had to set aside.
SLACK_BLOCKS = 4

#: Bytes of a directory that a name takes, about: of middling length, in a bucket that is not full.
NAME_SPACE = 64


@dataclass(frozen=True, slots=True)
class Statfs:
    """Sizes in blocks of ``block_size``. ``available`` is what can be written; ``free`` has the
    reserve in it.
    """

    block_size: int
    blocks: int
    free: int
    available: int
    files: int
    files_free: int


def statfs(fs: Context) -> Statfs:
    """The sizes of the volume. A commit that is due is taken off, what waits for it is counted
    in.

    ``available`` is what a file can take: without the reserve, the blocks that every writer
    leaves, and the file's pointer blocks.
    """
    allocator, geometry = fs.volume.allocator, fs.volume.geometry
    fixed = sum(geometry.fixed_blocks(number) for number in {0, geometry.groups - 1})
    if geometry.groups > 2:
        fixed += (geometry.groups - 2) * geometry.fixed_blocks(1)
    free = max(0, allocator.free - fs.volume.dirtied)
    spare = max(0, free - allocator.reserve - SLACK_BLOCKS)
    available = spare - -(-spare // (geometry.fan_out + 1))
    files_free = available * geometry.block_size // (INODE_BYTES + NAME_SPACE)
    return Statfs(
        geometry.block_size,
        geometry.blocks - fixed,
        free,
        available,
        max(fs.base.inodes, 0) + files_free,
        files_free,
    )

"""What a log record says of the files that were changed: how each of them is now. ``replay`` does
it again.
"""

from __future__ import annotations

import stat
from array import array
from typing import TYPE_CHECKING

from snapfs.blocks.inode import INODE_BYTES
from snapfs.blocks.log_record import FileChange
from snapfs.blocks.pointer import BLOCK_MASK, FLAG_BUCKET

if TYPE_CHECKING:
    from snapfs.filesystem.inode import Inode
    from snapfs.filesystem.view import View

Ranges = list[tuple[int, int]]  # index, count


def changes(base: View, files: dict[int, Ranges], limit: int) -> list[FileChange] | None:
    """The changes of these inodes of the base, with ``limit`` blocks at most; None when a record
    cannot tell them all.

    It can of inodes that the sealed generation has, and that differ from what they are there in
    nothing but times, size and blocks written. May raise ``NotCached``.
    """
    if sum(count for ranges in files.values() for _, count in ranges) > limit:
        return None
    out = []
    for ino, ranges in files.items():
        inode = base.dirty.get(ino)
        leaf = base.table.node(0, ino // base.per_leaf)
        if inode is None or leaf is None:
            return None
        at = ino % base.per_leaf * INODE_BYTES
        if not inode.is_told_from(leaf[at : at + INODE_BYTES]) or (
            ranges and not stat.S_ISREG(inode.mode)
        ):
            return None
        runs = tuple(_pointers(inode, *run) for run in joined(ranges))
        change = FileChange(
            ino, inode.generation, inode.size, inode.atime, inode.mtime, inode.ctime, runs
        )
        if not change.is_possible or not all(_name_blocks(words) for _, words in runs):
            return None
        out.append(change)
    return out


def joined(ranges: Ranges) -> Ranges:
    """The same places in order, each once."""
    out: Ranges = []
    for index, count in sorted(ranges):
        if out and index <= sum(out[-1]):
            out[-1] = out[-1][0], max(sum(out[-1]), index + count) - out[-1][0]
        else:
            out.append((index, count))
    return out


def _pointers(inode: Inode, index: int, count: int) -> tuple[int, array[int]]:
    found = array("Q")
    for _, words, slot, number in inode.map.spans(index, count):
        found += (
            words[2 * slot : 2 * (slot + number)]
            if words is not None
            else array("Q", bytes(16 * number))
        )
    return index, found


def _name_blocks(words: array[int]) -> bool:
    """Are all of these pointers to blocks of data?"""
    return all(first < FLAG_BUCKET and first & BLOCK_MASK for first in words[::2])

"""Whether two states of a file, or two files, differ in their data, in their attributes, or in
both.

Data are a file's bytes, a link's target, a device's number. Attributes are permissions, owner,
group, extended attributes, access lists. The time of modification is one where the data are the
same, and for directories never: there it changes with every name.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.inode import INLINE_ATTRIBUTES
from snapfs.blocks.pointer import BLOCK_MASK, CHECKSUM_SHIFT
from snapfs.errors import CorruptData
from snapfs.filesystem import reading, xattrs
from snapfs.snapshots.compare.sides import (
    PAUSE,
    Steps,
    ask,
)
from snapfs.store.trees.difference import MapDifference

if TYPE_CHECKING:
    from snapfs.filesystem import Inode
    from snapfs.store.commit.volume import Volume
    from snapfs.store.trees.difference import ChangedBlock


#: Pairs of blocks that are read at once.
TOGETHER: Final = 32


class Change(NamedTuple):
    """What differs."""

    data: bool = False
    attributes: bool = False


def changes(one: Inode, other: Inode) -> Steps[Change]:
    """What differs between two inodes of one type, in two views."""
    data_differ = yield from _data_differ(one, other)
    if not data_differ and not one.is_directory and one.mtime != other.mtime:
        return Change(data_differ, attributes=True)
    return Change(data_differ, (yield from _attributes_differ(one, other)))


def _attributes_differ(one: Inode, other: Inode) -> Steps[bool]:
    if (one.mode, one.uid, one.gid) != (other.mode, other.uid, other.gid):
        return True
    if _attributes_key(one) == _attributes_key(other):
        return False
    return (yield from ask(xattrs.load, one)) != (yield from ask(xattrs.load, other))


def _attributes_key(inode: Inode) -> tuple[object, ...]:
    """Where the extended attributes are, if there are any: equal for equal ones, mostly."""
    inline = inode.inline if inode.inline_kind == INLINE_ATTRIBUTES else b""
    first, second = inode.attribute_map.root_words
    return first & BLOCK_MASK, second, inode.attribute_bytes, inline


def _data_differ(one: Inode, other: Inode) -> Steps[bool]:
    kind = stat.S_IFMT(one.mode)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        return one.rdev != other.rdev
    if kind not in (stat.S_IFREG, stat.S_IFLNK):
        return False
    if one.size != other.size:
        return True
    if kind == stat.S_IFLNK:
        return (yield from ask(reading.target, one)) != (yield from ask(reading.target, other))
    volume = one.view.volume
    walk = MapDifference(
        volume, (*one.map.root_words, one.map.depth), (*other.map.root_words, other.map.depth)
    )
    zeros = crc32c(bytes(volume.geometry.block_size))
    while (places := (yield from ask(walk.next))) is not None:
        # What has different checksums differs. What has equal ones may be the same bytes, written
        # anew.
        sums = [
            tuple(second >> CHECKSUM_SHIFT if first else zeros for first, second in pointers)
            for _, *pointers in places
        ]
        if any(left != right for left, right in sums):
            return True
        if (yield from _bytes_differ(volume, places)):
            return True
        yield PAUSE
    return False


def _bytes_differ(volume: Volume, places: Sequence[ChangedBlock]) -> Steps[bool]:
    """Compare blocks by their bytes. One that is damaged is not the same as another one."""
    hole = bytes(volume.geometry.block_size)
    for first in range(0, len(places), TOGETHER):
        pointers = [pointer for _, *pair in places[first : first + TOGETHER] for pointer in pair]
        try:
            loaded = iter(
                (
                    yield from ask(
                        volume.load_all, "data", [pointer for pointer in pointers if pointer[0]]
                    )
                )
            )
        except CorruptData:
            return True
        blocks = [next(loaded) if pointer[0] else hole for pointer in pointers]
        if blocks[::2] != blocks[1::2]:
            return True
        yield PAUSE
    return False

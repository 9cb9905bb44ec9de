"""The initial part of a copy: what must be in it before anybody may use it (D2).

These are the superblocks, the headers of all groups with both bitmaps, the storage of records and
instances, and whatever files were chosen to go first. All of it is found by reading the volume as
it was, which copies what is read.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from snapfs.blocks.geometry import HEADER_SLOT_BLOCKS, HEADER_SLOTS
from snapfs.blocks.group_header import ENTRY_WRITTEN
from snapfs.copying.as_it_was import AsItWas
from snapfs.errors import CorruptBlock, NotFound
from snapfs.filesystem import Filesystem
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.space.group_reading import read_group

if TYPE_CHECKING:
    from snapfs.copying.copy import Copy
    from snapfs.filesystem.inode import Inode

#: Bytes of a file that are looked at at once.
WINDOW_BYTES = 16 << 20

#: Copied bytes that may wait for a flush.
UNSETTLED_BYTES = 32 << 20


def copy_initial_part(copy: Copy, first: Sequence[bytes], wanted: Callable[[], None]) -> None:
    """Copy it; durable when this returns. ``first`` are paths in the volume, which are copied with
    all that is below them.

    Raises ``NotFound`` for a path that is not there, ``DeviceError``, ``CorruptBlock``, and what
    ``wanted`` raises, which is asked often.
    """
    device = AsItWas(copy)
    geometry = copy.geometry
    front, tail = geometry.slot_offsets()
    ring_bytes = geometry.ring_blocks * geometry.block_size
    for start in (front[0], tail[0]):
        device.read(start, ring_bytes)
    volume = open_volume(device, read_only=True)  # reads all tables

    def block(number: int, _checksum: int) -> bytes:
        return device.read(number * geometry.block_size, geometry.block_size)

    for number, entry in enumerate(copy.entries):
        if entry.flags & ENTRY_WRITTEN:
            device.read(
                geometry.header_block(number, 0) * geometry.block_size,
                HEADER_SLOTS * HEADER_SLOT_BLOCKS * geometry.block_size,
            )
            with contextlib.suppress(CorruptBlock):  # all of such a group is copied, at its time
                read_group(geometry, entry, number, block)  # and the records that are elsewhere
        wanted()
        _settle_if_much(copy)
    fs = Filesystem(volume)
    for path in first:
        _copy_path(copy, fs, path, wanted)
    copy.settle()


def _settle_if_much(copy: Copy) -> None:
    if copy.unsettled > UNSETTLED_BYTES:
        copy.settle()


def _copy_path(copy: Copy, fs: Filesystem, path: bytes, wanted: Callable[[], None]) -> None:
    volume = fs.volume
    inode = drive(volume, fs.inode, fs.base, ROOT_INO)
    for name in filter(None, path.split(b"/")):
        try:
            inode = drive(volume, fs.lookup, fs.base, inode.ino, name)
        except NotFound:
            raise NotFound(
                f"/{path.decode(errors='replace')}: not in the volume, so it cannot be copied first"
            ) from None
    waiting = [inode.ino]
    while waiting:
        inode = drive(volume, fs.inode, fs.base, waiting.pop())
        for name in drive(volume, fs.xattr_list, fs.base, inode.ino):
            drive(volume, fs.xattr_get, fs.base, inode.ino, name)
        if inode.is_directory:
            waiting += _children(fs, inode)
        elif stat.S_ISREG(inode.mode):
            _copy_file(copy, fs, inode, wanted)
        elif stat.S_ISLNK(inode.mode):
            drive(volume, fs.readlink, fs.base, inode.ino)
        wanted()
        _settle_if_much(copy)


def _children(fs: Filesystem, inode: Inode) -> list[int]:
    out: list[int] = []
    after = 0
    while found := drive(fs.volume, fs.entries, fs.base, inode.ino, after, 512):
        out += [entry.ino for entry in found]
        after = found[-1].cookie
    return out


def _copy_file(copy: Copy, fs: Filesystem, inode: Inode, wanted: Callable[[], None]) -> None:
    size = copy.geometry.block_size
    for offset in range(0, inode.size if inode.map.blocks else 0, WINDOW_BYTES):
        plan = drive(fs.volume, fs.plan_read, fs.base, inode.ino, offset, WINDOW_BYTES)
        for start, length in plan.runs:
            copy.fetch(start // size, length // size)
            wanted()
            _settle_if_much(copy)

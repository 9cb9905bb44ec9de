"""Formatting: a new volume with an empty root directory. ``doc/format.md`` section 1, and the rest
of it.
"""

from __future__ import annotations

import os
import stat
import time
import uuid
from collections.abc import Callable

from snapfs.blocks.geometry import Geometry
from snapfs.blocks.group_header import fresh_entries
from snapfs.blocks.superblock import Superblock, encode_label
from snapfs.device.base import Device
from snapfs.filesystem.filesystem import Filesystem
from snapfs.filesystem.inode import Inode
from snapfs.ids import ORPHANS_INO, ROOT_INO
from snapfs.store.commit.driver import commit
from snapfs.store.commit.volume import Volume
from snapfs.store.tables.root_record import RootRecord

#: Bytes at both ends that old signatures of other filesystems may lie in.
SIGNATURE_BYTES = 1 << 20


def format_volume(
    device: Device,
    *,
    block_size: int = 4096,
    label: str = "",
    clear: bool = True,
    uid: int = 0,
    gid: int = 0,
    entropy: Callable[[int], bytes] | None = None,
    now_ns: int | None = None,
) -> None:
    """Write an empty volume over a device; its root directory belongs to ``uid`` and ``gid``.
    ``clear`` removes old signatures.

    The UUID and the seed of directory hashes come from ``entropy`` (a function of a number of
    bytes), times are ``now_ns``; by default both are the system's. With the same two, the same
    bytes are written.

    Raises ``UsageError`` when the sizes or the label cannot be, ``DeviceError``.
    """
    geometry = Geometry.for_size(block_size, device.size)
    encode_label(label)
    if clear:
        size = min(SIGNATURE_BYTES, device.size)
        device.write(0, bytes(size))
        device.write(device.size - size, bytes(size))
        device.flush()
    entropy = entropy or os.urandom
    now = time.time_ns() if now_ns is None else now_ns
    identity = uuid.UUID(bytes=entropy(16), version=4).bytes
    superblock = Superblock(block_size, geometry.blocks, 0, identity, label, now, now, 0, 0, 0)
    root = RootRecord(hash_seed=int.from_bytes(entropy(8), "little"))
    volume = Volume(device, superblock, root, fresh_entries(geometry))
    volume.now = lambda: now
    volume.allocator.reserve = 0
    fs = Filesystem(volume)
    for ino, mode in ((ROOT_INO, 0o755), (ORPHANS_INO, 0o700)):
        inode = Inode(
            fs.base,
            ino,
            stat.S_IFDIR | mode,
            uid=uid,
            gid=gid,
            generation=volume.next_inode_generation,
            now=now,
        )
        volume.next_inode_generation += 1
        inode.nlink = 2
        inode.parent = ROOT_INO
        fs.base.add(inode)
    commit(volume)
    volume.close()

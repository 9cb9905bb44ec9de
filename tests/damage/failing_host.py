"""A filesystem with one file in it, the image, whose reads, writes and flushes fail when they are
told to: a disk that dies under a mount.

Run as ``python failing_host.py BACKING MOUNTPOINT ORDERS``. Prints ``ready`` when it is mounted.
What stands in the file ``ORDERS`` now (``read``, ``write``, ``full``, ``flush``) fails now. Nothing
is cached, so what fails here fails there.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

import pyfuse3
import trio

IMAGE = 2


class FailingHost(pyfuse3.Operations):
    def __init__(self, backing: str, orders: str) -> None:
        super().__init__()
        self.descriptor = os.open(backing, os.O_RDWR)
        self.orders = orders

    def obey(self, what: str) -> bool:
        with open(self.orders, encoding="ascii") as file:
            return what in file.read().split()

    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = (
            stat.S_IFDIR | 0o755 if inode == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o600
        )
        entry.st_size = os.fstat(self.descriptor).st_size if inode == IMAGE else 0
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        return entry

    async def lookup(self, parent_inode, name, ctx=None):
        if name != b"image":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(IMAGE)

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=inode, direct_io=True)

    async def read(self, fh, off, size):
        if self.obey("read"):
            raise pyfuse3.FUSEError(errno.EIO)
        return os.pread(self.descriptor, size, off)

    async def write(self, fh, off, buf):
        if self.obey("write"):
            raise pyfuse3.FUSEError(errno.EIO)
        if self.obey("full"):
            raise pyfuse3.FUSEError(errno.ENOSPC)
        return os.pwrite(self.descriptor, buf, off)

    async def fsync(self, fh, datasync):
        if self.obey("flush"):
            raise pyfuse3.FUSEError(errno.EIO)

    async def flush(self, fh):
        pass

    async def release(self, fh):
        pass


async def run(backing: str, mountpoint: str, orders: str) -> None:
    pyfuse3.init(FailingHost(backing, orders), mountpoint, {"fsname=failing", "subtype=failing"})
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            await trio.to_thread.run_sync(os.stat, mountpoint)
            print("ready", flush=True)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    trio.run(run, *sys.argv[1:])

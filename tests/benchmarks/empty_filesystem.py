"""The yardstick: a filesystem on stock pyfuse3 that keeps names and bytes in dictionaries and does nothing else.

What it costs is what pyfuse3, trio and the kernel cost; a real filesystem can be compared with it and not be much faster.
Run as ``python empty_filesystem.py MOUNTPOINT``; prints ``ready`` when it is mounted.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time

import pyfuse3
import trio

TIMEOUT = 300.0


class EmptyFilesystem(pyfuse3.Operations):
    enable_writeback_cache = True

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[tuple[int, bytes], int] = {}
        self.modes = {pyfuse3.ROOT_INODE: stat.S_IFDIR | 0o755}
        self.data: dict[int, bytearray] = {}
        self.next = 2

    def attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = self.modes[inode]
        entry.st_size = len(self.data.get(inode, b""))
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        now = time.time_ns()
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = now
        entry.attr_timeout = entry.entry_timeout = TIMEOUT
        return entry

    async def getattr(self, inode, ctx=None):
        return self.attributes(inode)

    async def setattr(self, inode, attr, fields, fh, ctx):
        if fields.update_size:
            data = self.data.setdefault(inode, bytearray())
            del data[attr.st_size :]
            data.extend(bytes(attr.st_size - len(data)))
        return self.attributes(inode)

    async def lookup(self, parent_inode, name, ctx=None):
        inode = self.names.get((parent_inode, name))
        if inode is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.attributes(inode)

    async def create(self, parent_inode, name, mode, flags, ctx):
        inode = self.next
        self.next += 1
        self.names[parent_inode, name] = inode
        self.modes[inode] = mode
        self.data[inode] = bytearray()
        return pyfuse3.FileInfo(fh=inode, keep_cache=True), self.attributes(inode)

    async def mkdir(self, parent_inode, name, mode, ctx):
        inode = self.next
        self.next += 1
        self.names[parent_inode, name] = inode
        self.modes[inode] = mode | stat.S_IFDIR
        return self.attributes(inode)

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    async def read(self, fh, off, size):
        return bytes(self.data[fh][off : off + size])

    async def write(self, fh, off, buf):
        data = self.data[fh]
        if off > len(data):
            data.extend(bytes(off - len(data)))
        data[off : off + len(buf)] = buf
        return len(buf)

    async def unlink(self, parent_inode, name, ctx):
        self.data.pop(self.names.pop((parent_inode, name)), None)

    async def fsync(self, fh, datasync):
        pass

    async def flush(self, fh):
        pass

    async def release(self, fh):
        pass


async def run(mountpoint: str) -> None:
    pyfuse3.init(EmptyFilesystem(), mountpoint, {*pyfuse3.default_options, "fsname=empty"})
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            await trio.to_thread.run_sync(os.stat, mountpoint)
            print("ready", flush=True)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    trio.run(run, sys.argv[1])

"""The yardstick: a filesystem on stock pyfuse3 that answers every request and stores nothing but
names, types and sizes.

What it costs is what pyfuse3, its loop, trio and the kernel cost. It asks of the kernel what a
filesystem may ask by options: names, also missing ones, and attributes are believed for a long
time, pages stay in the cache, writes are held back, listings bring attributes along. Files read as
zeros, except where their pages are still in the kernel's cache. Run as ``python empty_filesystem.py
MOUNTPOINT``; prints ``ready`` when it is mounted.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time

import pyfuse3
import trio

TIMEOUT = 3600.0

#: What every read is answered with, in one piece for each size: nothing is allocated or copied for
#: it here.
ZEROS = bytes(1 << 20)

BLOCK = 4096
BLOCKS = 1 << 20


class EmptyFilesystem(pyfuse3.Operations):
    enable_writeback_cache = True
    supports_dot_lookup = True

    def __init__(self) -> None:
        super().__init__()
        #: Directory -> name -> inode, in order of creation.
        self.names: dict[int, dict[bytes, int]] = {}
        self.attributes: dict[int, pyfuse3.EntryAttributes] = {}
        self.links: dict[int, bytes] = {}
        self.listings: dict[int, list[tuple[bytes, int]]] = {}
        self.next = pyfuse3.ROOT_INODE
        self.next_listing = 1
        self.missing = pyfuse3.EntryAttributes()
        self.missing.st_ino = 0
        self.missing.entry_timeout = TIMEOUT
        self.new(stat.S_IFDIR | 0o755)

    def new(self, mode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = self.next
        entry.st_mode = mode
        entry.st_nlink = 1
        entry.st_size = 0
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = time.time_ns()
        entry.attr_timeout = entry.entry_timeout = TIMEOUT
        self.attributes[self.next] = entry
        if stat.S_ISDIR(mode):
            self.names[self.next] = {}
        self.next += 1
        return entry

    def make(self, parent: int, name: bytes, mode: int) -> pyfuse3.EntryAttributes:
        entry = self.new(mode)
        self.names[parent][name] = entry.st_ino
        return entry

    def drop(self, inode: int) -> None:
        entry = self.attributes[inode]
        entry.st_nlink -= 1
        if not entry.st_nlink:
            del self.attributes[inode]
            self.links.pop(inode, None)
            self.names.pop(inode, None)

    def known(self, inode: int) -> pyfuse3.EntryAttributes:
        """Raises ESTALE for what was removed while somebody uses it: nothing is kept for that."""
        try:
            return self.attributes[inode]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ESTALE) from None

    # --- names ---

    async def lookup(self, parent_inode, name, ctx=None):
        inode = self.names[parent_inode].get(name)
        return self.missing if inode is None else self.attributes[inode]

    async def create(self, parent_inode, name, mode, flags, ctx):
        entry = self.make(parent_inode, name, mode)
        return pyfuse3.FileInfo(fh=entry.st_ino, keep_cache=True), entry

    async def mknod(self, parent_inode, name, mode, rdev, ctx):
        return self.make(parent_inode, name, mode)

    async def mkdir(self, parent_inode, name, mode, ctx):
        return self.make(parent_inode, name, mode | stat.S_IFDIR)

    async def symlink(self, parent_inode, name, target, ctx):
        entry = self.make(parent_inode, name, stat.S_IFLNK | 0o777)
        self.links[entry.st_ino] = target
        entry.st_size = len(target)
        return entry

    async def readlink(self, inode, ctx):
        return self.links[inode]

    async def link(self, inode, new_parent_inode, new_name, ctx):
        entry = self.attributes[inode]
        entry.st_nlink += 1
        self.names[new_parent_inode][new_name] = inode
        return entry

    async def unlink(self, parent_inode, name, ctx):
        self.drop(self.names[parent_inode].pop(name))

    async def rmdir(self, parent_inode, name, ctx):
        if self.names[self.names[parent_inode][name]]:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        self.drop(self.names[parent_inode].pop(name))

    async def rename(self, parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx):
        if flags:
            raise pyfuse3.FUSEError(errno.EINVAL)
        replaced = self.names[parent_inode_new].get(name_new)
        self.names[parent_inode_new][name_new] = self.names[parent_inode_old].pop(name_old)
        if replaced is not None:
            self.drop(replaced)

    # --- attributes ---

    async def getattr(self, inode, ctx=None):
        return self.known(inode)

    async def setattr(self, inode, attr, fields, fh, ctx):
        entry = self.known(inode)
        if fields.update_size:
            entry.st_size = attr.st_size
        if fields.update_mode:
            entry.st_mode = attr.st_mode
        if fields.update_uid:
            entry.st_uid = attr.st_uid
        if fields.update_gid:
            entry.st_gid = attr.st_gid
        if fields.update_atime:
            entry.st_atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            entry.st_mtime_ns = attr.st_mtime_ns
        return entry

    async def statfs(self, ctx):
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = BLOCK
        found.f_blocks = found.f_bfree = found.f_bavail = BLOCKS
        found.f_files = found.f_ffree = found.f_favail = BLOCKS
        found.f_namemax = 255
        return found

    # --- contents ---

    async def open(self, inode, flags, ctx):
        entry = self.known(inode)
        if flags & os.O_TRUNC:
            entry.st_size = 0
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    async def read(self, fh, off, size):
        return ZEROS[: max(min(size, self.known(fh).st_size - off), 0)]

    async def write(self, fh, off, buf):
        # The kernel writes back what it holds of a file that is unlinked already and still open.
        entry = self.attributes.get(fh)
        if entry is not None:
            entry.st_size = max(entry.st_size, off + len(buf))
        return len(buf)

    async def fsync(self, fh, datasync):
        pass

    async def flush(self, fh):
        pass

    async def release(self, fh):
        pass

    async def opendir(self, inode, ctx):
        self.listings[self.next_listing] = list(self.names[inode].items())
        self.next_listing += 1
        return self.next_listing - 1

    async def readdir(self, fh, start_id, token):
        listing = self.listings[fh]
        for place in range(start_id, len(listing)):
            name, inode = listing[place]
            if inode in self.attributes and not pyfuse3.readdir_reply(
                token, name, self.attributes[inode], place + 1
            ):
                return

    async def releasedir(self, fh):
        del self.listings[fh]

    async def fsyncdir(self, fh, datasync):
        pass

    async def forget(self, inode_list):
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
